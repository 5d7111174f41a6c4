"""The settings of param groups, but for the lr: passed on from the user's groups to their pieces, and back."""

from collections.abc import Callable, Iterable, Iterator
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor, is_tensor

from structurenet_pl.optim.param_groups import Group, own

NOT_SETTINGS = ("params", "param_names", "name", "lr")

Pairs = Callable[[], Iterable[tuple[Group, list[Group]]]]


class Stamp(NamedTuple):
    """What tells whether a value has been written since: another object, or a tensor written in place."""

    held: Any
    version: int
    value: Any

    @classmethod
    def of(cls, value: Any) -> "Stamp":
        """The stamp of what stands somewhere now."""
        return cls(value, value._version if isinstance(value, Tensor) else 0, own(value))

    def fits(self, value: Any) -> bool:
        """Whether it is still that. A tensor is read from its device only if it may have been written.

        The same value is no write: schedulers write back what they find when they are made.
        """
        if value is self.held and not (isinstance(value, Tensor) and value._version != self.version):
            return True
        return same(value, self.value)


class GroupSettings:
    """Keeps the settings of pieces in line with those of the user's groups.

    Args:
        pairs: Gives each of the user's groups with the pieces made of it.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._stamps: list[dict[str, Stamp]] = []  # of what the pieces have

    def start(self) -> None:
        """Take all that stands in the user's groups as passed on."""
        self._stamps = [{key: Stamp.of(value) for key, value in _but_lr(group)} for group, _ in self._pairs()]

    def pass_on(self) -> None:
        """Give the pieces what has been written to the user's groups."""
        for (group, pieces), stamps in zip(self._pairs(), self._stamps, strict=True):
            values = [value for key, value in group.items() if key not in NOT_SETTINGS]
            held = [stamp.held for stamp in stamps.values()]
            if len(values) == len(held) and all(map(is_, values, held)) and not any(map(is_tensor, values)):
                continue  # a shortcut; a tensor may have been written in place
            for key, value in group.items():
                if key in NOT_SETTINGS:
                    continue
                if key not in stamps or not stamps[key].fits(value):
                    stamps[key] = Stamp.of(value)
                    for piece in pieces:
                        put(piece, key, value)

    def collect(self) -> None:
        """Give the user's groups what has been written to all of their pieces alike, and the pieces the rest."""
        self.pass_on()
        for (group, (first, *others)), stamps in zip(self._pairs(), self._stamps, strict=True):
            for key, value in first.items():
                if key in NOT_SETTINGS or (held := group.get(key)) is value or (key in group and same(held, value)):
                    continue
                if all(key in other and same(other[key], value) for other in others):
                    put(group, key, value)
                    stamps[key] = Stamp.of(group[key])

    def settings_of_single_pieces(self) -> dict[str, Group]:
        """What stands in single pieces only, by name of the piece: somebody wrote it there."""
        self.collect()
        found: dict[str, Group] = {}
        for group, pieces in self._pairs():
            for piece in pieces:
                for key, value in _but_lr(piece):
                    if not (key in group and same(group[key], value)):
                        found.setdefault(piece["name"], {})[key] = own(value)
        return found


def put(group: Group, key: str, value: Any) -> None:
    """Write to a group, to a tensor in place: compiled and capturable optimizers hold on to it."""
    held: Any = group.get(key)
    are_tensors = isinstance(held, Tensor) and isinstance(value, Tensor)
    if are_tensors and held.is_floating_point() and held.shape == value.shape:
        held.copy_(value)
    else:
        group[key] = own(value)


def same(one: Any, other: Any) -> bool:
    """Whether two settings are equal, and both tensors or both not."""
    if one is other:
        return True
    try:
        return isinstance(one, Tensor) == isinstance(other, Tensor) and bool(one == other)
    except (RuntimeError, ValueError):  # tensors or arrays of several entries, whose comparison is no yes or no
        return False


def _but_lr(group: Group) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in group.items() if key not in NOT_SETTINGS)
