"""The settings of param groups other than the lr: passed on from the user's groups to their pieces, and back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor

from structurenet_pl.optim.param_groups import Group, copy_if_mutable

NOT_SETTINGS = ("params", "param_names", "name", "lr")

GroupsWithPieces = Callable[[], Iterable[tuple[Group, list[Group]]]]


class Stamp(NamedTuple):
    """The state of a value at one time, by which a later write to it is noticed.

    Args:
        held: The object itself.
        version: The counter of writes in place that torch keeps for a tensor, 0 for other objects.
        value: A copy of the value then.
    """

    held: Any
    version: int
    value: Any

    @classmethod
    def of(cls, value: Any) -> "Stamp":
        """The stamp of a value now."""
        # _version has no public counterpart. It costs nothing to read, but a comparison of values synchronises a GPU
        return cls(value, value._version if isinstance(value, Tensor) else 0, copy_if_mutable(value))

    def matches(self, value: Any) -> bool:
        """Whether no code has written to the value since.

        Writing an equal value does not count: when a scheduler is made, it writes back the values that it has read. A
        tensor is compared, which reads it from its device, only if it may have been written.
        """
        if value is self.held and not (isinstance(value, Tensor) and value._version != self.version):
            return True
        return settings_equal(value, self.value)


class GroupSettings:
    """Keeps the settings of pieces equal to those of the user's groups, whichever of the two somebody writes to.

    Args:
        groups_with_pieces: Returns each of the user's groups with the pieces made of it.
    """

    def __init__(self, groups_with_pieces: GroupsWithPieces) -> None:
        self._groups_with_pieces = groups_with_pieces
        self._stamps: list[dict[str, Stamp]] = []  # of the values that were passed on last, by group and key
        # of the user's groups and their first pieces, as of the last collect: shows at once that nothing has changed
        self._getters: list[Callable[[Group], Any]] = []
        self._sizes: list[int] = []
        self._values: list[Any] = []
        # False until the first collect, and while a setting is a tensor, which may be written in place
        self._comparable = False

    def mark_passed_on(self) -> None:
        """Note that the pieces have all settings of the user's groups."""
        self._stamps = [
            {key: Stamp.of(value) for key, value in _items_but_lr(group)} for group, _ in self._groups_with_pieces()
        ]

    def pass_on(self) -> None:
        """Write to the pieces the settings that somebody has written to the user's groups."""
        for (group, pieces), stamps in zip(self._groups_with_pieces(), self._stamps, strict=True):
            for key, value in _items_but_lr(group):
                if key not in stamps or not stamps[key].matches(value):
                    stamps[key] = Stamp.of(value)
                    for piece in pieces:
                        write_setting(piece, key, value)

    def collect(self) -> None:
        """Pass on, then write to the user's groups the settings that somebody has written to all of their pieces alike.

        A setting that was written to single pieces only stays in these.
        """
        # the first piece is enough: a setting counts for the user's group only if it was written to all of its pieces
        pairs = list(self._groups_with_pieces())
        groups = [group for group, _ in pairs] + [pieces[0] for _, pieces in pairs]
        if self._are_as_collected(groups):
            return
        self.pass_on()
        for (group, (first, *rest)), stamps in zip(self._groups_with_pieces(), self._stamps, strict=True):
            for key, value in _items_but_lr(first):
                if (held := group.get(key)) is value or (key in group and settings_equal(held, value)):
                    continue
                if all(key in piece and settings_equal(piece[key], value) for piece in rest):
                    write_setting(group, key, value)
                    stamps[key] = Stamp.of(group[key])
        self._remember(groups)

    def pass_on_from_loop(self) -> None:
        """Pass on what a loop of a scheduler has written to the user's groups.

        Such a loop runs several times in a step, and writes a setting to all groups if it writes it to one, so a look
        at the first group is enough here. ``collect`` runs before each update, and looks at all.
        """
        if not self._are_as_collected([group for group, _ in islice(self._groups_with_pieces(), 1)]):
            self.pass_on()

    def _are_as_collected(self, groups: Sequence[Group]) -> bool:
        """Whether the settings of these groups, the first of ``_remember``, are certainly the same as then."""
        n = len(groups)
        if not self._comparable or list(map(len, groups)) != self._sizes[:n]:
            return False
        try:
            # equal objects are compared by identity first, in C
            return [get(group) for get, group in zip(self._getters, groups, strict=False)] == self._values[:n]
        except (KeyError, RuntimeError, ValueError):  # another key instead, or arrays, whose comparison is an array
            return False

    def _remember(self, groups: Sequence[Group]) -> None:
        keys = [[key for key in group if key not in NOT_SETTINGS] for group in groups]
        # itemgetter needs a key, and every group has "params"
        self._getters = [itemgetter(*(some or ["params"])) for some in keys]
        self._sizes = list(map(len, groups))
        self._values = [get(group) for get, group in zip(self._getters, groups, strict=True)]
        pairs = zip(groups, keys, strict=True)
        self._comparable = not any(isinstance(group[key], Tensor) for group, some in pairs for key in some)

    def settings_of_single_pieces(self) -> dict[str, Group]:
        """The settings that somebody has written to single pieces only, by name of the piece."""
        self.collect()
        settings: dict[str, Group] = {}
        for group, pieces in self._groups_with_pieces():
            for piece in pieces:
                for key, value in _items_but_lr(piece):
                    if not (key in group and settings_equal(group[key], value)):
                        settings.setdefault(piece["name"], {})[key] = copy_if_mutable(value)
        return settings


def write_setting(group: Group, key: str, value: Any) -> None:
    """Write a value to a group. A tensor is written in place: compiled and capturable optimizers keep the object."""
    held: Any = group.get(key)
    are_tensors = isinstance(held, Tensor) and isinstance(value, Tensor)
    if are_tensors and held.is_floating_point() and held.shape == value.shape:
        held.copy_(value)
    else:
        group[key] = copy_if_mutable(value)


def settings_equal(first: Any, second: Any) -> bool:
    """Whether two settings are equal. A tensor never equals a number: optimizers treat the two differently."""
    if first is second:
        return True
    try:
        return isinstance(first, Tensor) == isinstance(second, Tensor) and bool(first == second)
    except (RuntimeError, ValueError):  # tensors or arrays of several entries, whose comparison has no single result
        return False


def _items_but_lr(group: Group) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in group.items() if key not in NOT_SETTINGS)
