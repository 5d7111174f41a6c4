"""The places where schedulers and the like refer to optimizers, found whatever they are called."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, cast
from weakref import ProxyTypes, ref

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.lightning import CALLBACKS, TRAINERS, unwrapped
from structurenet_pl.optim.scheduler_view import UnsplitOptimizer, is_stand_in, real

MAX_OBJECTS_SEARCHED = 10_000  # objects are searched; schedulers are near
MAX_ITEMS_SEARCHED = 100  # items; a longer container holds data and no schedulers
LEAVES = (bool, int, float, complex, str, bytes, type(None))
NOT_SEARCHED = (*LEAVES, Tensor, Optimizer, UnsplitOptimizer, *TRAINERS, type, ModuleType)
WAYS = (dict, list, tuple, set, frozenset, deque, MethodType, FunctionType, partial, ref)
OF_ANY_MODULE = vars(nn.Module()).keys()


@dataclass(frozen=True)
class Place:
    """Where something is held: an entry of a dict or a list, or a slot of an object."""

    holder: Any
    key: Any

    def get(self) -> Any:
        """What stands there."""
        if isinstance(self.key, MemberDescriptorType):
            return self.key.__get__(self.holder)
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        """Let something else stand there."""
        if isinstance(self.key, MemberDescriptorType):
            self.key.__set__(self.holder, value)
        else:
            self.holder[self.key] = value


class References:
    """Puts stand-ins in the places of optimizers, and the optimizers back.

    That is done in the attributes of objects such as schedulers, and in lists, dicts and tuples there. What modules and
    callbacks hold themselves stays: they compare it with the optimizers that Lightning hands them.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Place, Any, Any]] = []

    def replace(self, roots: Iterable[object], stand_ins: Mapping[int, UnsplitOptimizer]) -> None:
        """Put stand-ins in the places of optimizers.

        Args:
            roots: Objects to begin with.
            stand_ins: By the ``id`` of the optimizer.
        """
        self._replaced += _change(roots, lambda optimizer: stand_ins.get(id(unwrapped(optimizer)), optimizer))

    def restore(self, roots: Iterable[object]) -> None:
        """Put the optimizers back, also in what was made on a stand-in and can be reached from the roots."""
        while self._replaced:
            place, new, old = self._replaced.pop()
            with suppress(KeyError, IndexError, AttributeError):  # it may be gone
                if place.get() is new:
                    place.put(old)
        _change(roots, lambda optimizer: real(optimizer) if is_stand_in(optimizer) else optimizer)


def reachable(roots: Iterable[object]) -> Iterator[object]:
    """What can be reached from some objects, near things first: schedulers, and whatever holds them.

    The way goes through attributes and slots, short containers, bound methods, partials, closures and submodules.
    Tensors, optimizers, Trainers, classes and modules of Python hold no schedulers.
    """
    return (one for one, _ in _search(roots))


def held_by(one: object) -> set[int]:
    """The ``id`` of each optimizer that an object, or what can be reached from it, refers to itself."""
    values = [place.get() for part in reachable([one]) for place in _places(part)]
    return {id(unwrapped(value)) for value in values if isinstance(value, Optimizer) and not is_stand_in(value)}


def attributes_of(one: object) -> dict[str, Any]:
    """The attributes of an object, in its ``__dict__`` and in slots; nobody's code is run."""
    places = _attributes(one)
    return {getattr(place.key, "__name__", place.key): place.get() for place in places}


def set_attribute(one: object, name: str, value: Any) -> None:
    """Set one of these."""
    for place in _attributes(one):
        if getattr(place.key, "__name__", place.key) == name:
            place.put(value)


def _change(roots: Iterable[object], change: Callable[[Any], Any]) -> list[tuple[Place, Any, Any]]:
    """Put something else in the places of optimizers; gives each place with what stands and what stood there."""
    changed = []
    for one, may_change in _search(roots):
        for place in _places(one) if may_change else ():
            value = place.get()
            new = change(value) if isinstance(value, Optimizer) else value
            if isinstance(value, tuple) and any(isinstance(item, Optimizer) for item in value):
                items = [change(item) if isinstance(item, Optimizer) else item for item in value]
                if any(item is not before for item, before in zip(items, value, strict=True)):
                    new = tuple.__new__(type(value), items)  # of a named tuple, too
            if new is not value:
                place.put(new)
                changed.append((place, new, value))
    return changed


def _search(roots: Iterable[object]) -> Iterator[tuple[object, bool]]:
    """What can be reached, and whether what it holds may be changed."""
    waiting = deque((root, True) for root in roots)
    seen: dict[int, object] = {}  # the objects stay alive meanwhile, so that no id is taken twice
    while waiting and len(seen) < MAX_OBJECTS_SEARCHED:
        one, may_change = waiting.popleft()
        searched, is_way, is_keeper = _traits(cast(Any, type(one)))
        if not searched or id(one) in seen:
            continue
        seen[id(one)] = one
        may_change = (may_change or not is_way) and not is_keeper
        yield one, may_change
        waiting.extend((content, may_change) for content in _contents(one))


@lru_cache(maxsize=1000)
def _traits(kind: Any) -> tuple[bool, bool, bool]:
    """Of objects of a class: whether they are searched, only lead to what is held, and keep optimizers themselves."""
    return (
        not (kind in ProxyTypes or issubclass(kind, NOT_SEARCHED)),
        issubclass(kind, WAYS),
        issubclass(kind, (nn.Module, *CALLBACKS)),
    )


def _contents(one: object) -> Iterable[object]:
    """What an object leads to."""
    if isinstance(one, dict | list | deque):
        return [place.get() for place in _places(one)]
    if isinstance(one, tuple | set | frozenset):
        return list(one) if len(one) <= MAX_ITEMS_SEARCHED else ()
    if isinstance(one, MethodType):
        return (one.__self__,)
    if isinstance(one, partial):
        return (one.func, *one.args, *one.keywords.values())
    if isinstance(one, ref):
        return (one(),)
    if isinstance(one, FunctionType):
        contents = []
        for cell in one.__closure__ or ():
            with suppress(ValueError):  # it is empty
                contents.append(cell.cell_contents)
        return contents
    if isinstance(one, nn.Module):
        own = [value for name, value in vars(one).items() if name not in OF_ANY_MODULE]
        return [*own, *one._modules.values()]
    return [place.get() for place in _attributes(one)]


def _places(one: object) -> list[Place]:
    """Where an object holds others."""
    if isinstance(one, dict):
        return [Place(one, key) for key in dict.keys(one)] if len(one) <= MAX_ITEMS_SEARCHED else []
    if isinstance(one, list | deque):
        return [Place(one, index) for index in range(len(one))] if len(one) <= MAX_ITEMS_SEARCHED else []
    if isinstance(one, tuple | set | frozenset | MethodType | FunctionType | partial | ref):
        return []
    return _attributes(one)


def _attributes(one: object) -> list[Place]:
    try:
        entries: Any = object.__getattribute__(one, "__dict__")
    except AttributeError:
        entries = {}
    places = [Place(entries, name) for name in entries] if isinstance(entries, dict) else []
    for slot in _slots(cast(Any, type(one))):
        with suppress(AttributeError):  # it is not set
            slot.__get__(one)
            places.append(Place(one, slot))
    return places


@lru_cache(maxsize=1000)
def _slots(kind: Any) -> tuple[MemberDescriptorType, ...]:
    members = (member for base in kind.__mro__ for member in vars(base).values())
    return tuple(member for member in members if isinstance(member, MemberDescriptorType))
