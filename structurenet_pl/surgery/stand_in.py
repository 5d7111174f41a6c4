"""What schedulers see in place of an optimizer whose param groups are split: the user's own groups."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol, cast
from weakref import ProxyTypes

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import TRAINERS, unwrapped
from structurenet_pl.surgery.wrappers import set_groups, with_inner

Group = dict[str, Any]
MOST = 10_000  # objects are searched; schedulers are near
LONG = 100  # items; a longer container holds data and no schedulers, and walking through it would take its time
NOT_SEARCHED = (Tensor, nn.Module, Optimizer, *TRAINERS, type, FunctionType, MethodType, ModuleType)


class Groups(Protocol):
    """Where a stand-in finds the user's groups."""

    def user_groups(self, optimizer: Optimizer) -> list[Group]:
        """Those that an optimizer, or one inside it, had before they were split."""

    def refresh(self) -> None:
        """Bring the user's groups and the pieces made of them in line, whichever was written last."""


class UnsplitOptimizer:
    """Stands in for an optimizer: all is the optimizer's, but the param groups are the user's own.

    It has the optimizer's class, equality and hash. A copy or a pickle of it is one of the optimizer itself, with the
    user's groups: it belongs to no fit, and is what it would be without us.

    Args:
        optimizer: What it stands in for.
        groups: Where it finds the user's groups.
    """

    def __init__(self, optimizer: Optimizer, groups: Groups) -> None:
        vars(self).update(_real=optimizer, _groups=groups)

    @property
    def param_groups(self) -> list[Group]:
        """The user's groups. What is written to them in a loop reaches the pieces when the loop ends."""
        groups: Groups = vars(self)["_groups"]
        groups.refresh()
        return _Watched(groups.user_groups(vars(self)["_real"]), groups.refresh)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(vars(self)["_real"])

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_real"], name, value)

    def __eq__(self, other: object) -> bool:
        return real(self) is real(other)

    def __hash__(self) -> int:
        return hash(real(self))

    def __repr__(self) -> str:
        return Optimizer.__repr__(cast(Any, self))

    def __copy__(self) -> "UnsplitOptimizer":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _unsplit(copy.deepcopy(real(self), memo), copy.deepcopy(self._lists(), memo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _unsplit, (real(self), self._lists())

    def _lists(self) -> list[list[Group]]:
        groups: Groups = vars(self)["_groups"]
        groups.refresh()
        return [groups.user_groups(one) for one in with_inner(vars(self)["_real"])]


class _Watched(list[Group]):
    """The user's groups; calls a function whenever a loop over them ends."""

    def __init__(self, groups: Iterable[Group], at_end: Callable[[], None]) -> None:
        super().__init__(groups)
        self._at_end = at_end

    def __iter__(self) -> Iterator[Group]:
        try:
            yield from super().__iter__()
        finally:
            self._at_end()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (self[:],)


def real(value: Any) -> Any:
    """The optimizer itself, if the value stands in for one or is what Lightning puts around it."""
    return vars(value)["_real"] if type(value) is UnsplitOptimizer else unwrapped(value)


def _unsplit(optimizer: Optimizer, lists: Iterable[list[Group]]) -> Optimizer:
    """Give a copied optimizer, and those inside it, the user's groups."""
    for one, groups in zip(with_inner(optimizer), lists, strict=True):
        set_groups(one, groups)
    return optimizer


class References:
    """The places where schedulers and the like refer to optimizers, found whatever their names are."""

    def __init__(self) -> None:
        self._replaced: list[tuple[dict[str, Any], str, Any, Any]] = []

    def replace(self, roots: Iterable[object], stand_ins: Mapping[int, UnsplitOptimizer]) -> None:
        """Put stand-ins in the place of optimizers in all attributes that can be reached.

        Args:
            roots: Objects to begin with.
            stand_ins: By the ``id`` of the optimizer.
        """
        self._replaced += _change(roots, lambda optimizer: stand_ins.get(id(unwrapped(optimizer)), optimizer))

    def restore(self, roots: Iterable[object]) -> None:
        """Put the optimizers back, also in what was made on a stand-in and can be reached from the roots."""
        while self._replaced:
            attributes, name, new, old = self._replaced.pop()
            if attributes.get(name) is new:
                attributes[name] = old
        _change(roots, lambda optimizer: real(optimizer) if type(optimizer) is UnsplitOptimizer else optimizer)


def reachable(roots: Iterable[object]) -> Iterator[object]:
    """The roots, and the objects with attributes that are found in their attributes and short containers; near first.

    What holds no schedulers is not searched: tensors, modules, optimizers, Trainers, classes and functions.
    """
    waiting = deque(roots)
    exempt = {id(root) for root in waiting}
    seen: set[int] = set()
    while waiting and len(seen) < MOST:
        one = waiting.popleft()
        if id(one) in seen or type(one) in ProxyTypes or (isinstance(one, NOT_SEARCHED) and id(one) not in exempt):
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | tuple | set):
            if len(one) <= LONG:
                waiting.extend(one.values() if isinstance(one, dict) else one)
        elif hasattr(one, "__dict__"):
            yield one
            waiting.extend(vars(one).values())


def _change(roots: Iterable[object], change: Callable[[Any], Any]) -> list[tuple[dict[str, Any], str, Any, Any]]:
    """Put something else in the places of optimizers; gives attributes, name, new and old value of each place."""
    changed = []
    for one in reachable(roots):
        attributes = vars(one)
        for name, value in list(attributes.items()):
            new = _changed(value, change)
            if new is not value:
                attributes[name] = new
                changed.append((attributes, name, new, value))
    return changed


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with optimizers changed; a container is replaced as a whole, for others may hold it, too."""
    if isinstance(value, Optimizer):
        return change(value)
    if type(value) in (list, tuple) and len(value) <= LONG:
        items = [_changed(item, change) for item in value]
        return value if all(map(is_, items, value)) else type(value)(items)
    if type(value) is dict and len(value) <= LONG:
        entries = {key: _changed(item, change) for key, item in value.items()}
        return value if all(map(is_, entries.values(), value.values())) else entries
    return value
