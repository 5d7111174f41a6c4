"""Replaces references to optimizers that schedulers and similar objects hold, in attributes of any name."""

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

from structurenet_pl.lightning import AnyCallback, AnyTrainer, unwrapped
from structurenet_pl.optim.scheduler_view import UnsplitOptimizer, is_stand_in, real_optimizer

MAX_OBJECTS_SEARCHED = 10_000  # nearest first; schedulers are a few references away, a user's data may be endless
MAX_ITEMS_SEARCHED = 100  # a longer container holds data and no schedulers
ATOMIC_TYPES = (bool, int, float, complex, str, bytes, type(None))
TYPES_NOT_SEARCHED = (*ATOMIC_TYPES, Tensor, Optimizer, UnsplitOptimizer, AnyTrainer, type, ModuleType)
# objects of these types have no attributes of interest: they only lead to the objects that they contain
TRANSPARENT_TYPES = (dict, list, tuple, set, frozenset, deque, MethodType, FunctionType, partial, ref)
ATTRIBUTES_OF_ANY_MODULE = vars(nn.Module()).keys()


@dataclass(frozen=True)
class Place:
    """A place that holds an object: an entry of a dict or a list, or a slot of an object."""

    holder: Any
    key: Any

    def get(self) -> Any:
        """The object in this place."""
        if isinstance(self.key, MemberDescriptorType):
            return self.key.__get__(self.holder)
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        """Put another object in this place."""
        if isinstance(self.key, MemberDescriptorType):
            self.key.__set__(self.holder, value)
        else:
            self.holder[self.key] = value


class References:
    """Replaces references to optimizers by references to stand-ins, and restores them.

    References in attributes of objects such as schedulers are replaced, and in lists, dicts and tuples there.
    References that modules and callbacks hold themselves stay: these compare them with the optimizers that Lightning
    passes to their hooks.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Place, Any, Any]] = []

    def replace(self, roots: Iterable[object], stand_ins: Mapping[int, UnsplitOptimizer]) -> None:
        """Replace references to optimizers.

        Args:
            roots: Objects at which the search starts.
            stand_ins: The stand-in of each optimizer, by the ``id`` of the optimizer.
        """
        self._replaced += _change(roots, lambda optimizer: stand_ins.get(id(unwrapped(optimizer)), optimizer))

    def restore(self, roots: Iterable[object]) -> None:
        """Restore the references, also in objects below the roots that were made later, with a stand-in."""
        while self._replaced:
            place, new, old = self._replaced.pop()
            with suppress(KeyError, IndexError, AttributeError):  # the place may not exist any more
                if place.get() is new:
                    place.put(old)
        _change(roots, lambda optimizer: real_optimizer(optimizer) if is_stand_in(optimizer) else optimizer)


def reachable(roots: Iterable[object]) -> Iterator[object]:
    """The objects that can be reached from some objects by references, nearest first.

    The search follows attributes and slots, short containers, bound methods, partials, closures and submodules. It does
    not enter tensors, optimizers, Trainers, classes and Python modules, which hold no schedulers.
    """
    return (found for found, _ in _search(roots))


def ids_of_referenced_optimizers(root: object) -> set[int]:
    """The ``id`` of each optimizer, not of stand-ins, that an object or an object reachable from it refers to."""
    values = [place.get() for part in reachable([root]) for place in _places(part)]
    return {id(unwrapped(value)) for value in values if isinstance(value, Optimizer) and not is_stand_in(value)}


def attributes_of(holder: object) -> dict[str, Any]:
    """The attributes of an object, in its ``__dict__`` and in slots. No property or ``__getattr__`` runs."""
    places = _attributes(holder)
    return {getattr(place.key, "__name__", place.key): place.get() for place in places}


def set_attribute(holder: object, name: str, value: Any) -> None:
    """Set an attribute that ``attributes_of`` returns. No property or ``__setattr__`` runs."""
    for place in _attributes(holder):
        if getattr(place.key, "__name__", place.key) == name:
            place.put(value)


def _change(roots: Iterable[object], change: Callable[[Any], Any]) -> list[tuple[Place, Any, Any]]:
    """Replace optimizers below the roots by the return values of ``change``.

    Returns:
        Each changed place with its new and its old value.
    """
    changed = []
    for holder, may_change in _search(roots):
        for place in _places(holder) if may_change else ():
            value = place.get()
            new = change(value) if isinstance(value, Optimizer) else value
            if isinstance(value, tuple) and any(isinstance(item, Optimizer) for item in value):
                # a tuple cannot be changed in place, so another one replaces it in its own place
                items = [change(item) if isinstance(item, Optimizer) else item for item in value]
                if any(item is not before for item, before in zip(items, value, strict=True)):
                    # not type(value)(...): the constructor of a named tuple has other arguments
                    new = tuple.__new__(type(value), items)
            if new is not value:
                place.put(new)
                changed.append((place, new, value))
    return changed


def _search(roots: Iterable[object]) -> Iterator[tuple[object, bool]]:
    """The reachable objects, each with whether the references that it holds may be changed."""
    waiting = deque((root, True) for root in roots)
    seen: dict[int, object] = {}  # keeps the objects alive, so that no other object gets the same id
    while waiting and len(seen) < MAX_OBJECTS_SEARCHED:
        reached, may_change = waiting.popleft()
        is_searched, is_transparent, compares_optimizers = _traits(cast(Any, type(reached)))
        if not is_searched or id(reached) in seen:
            continue
        seen[id(reached)] = reached
        # a container inside a module or callback counts as a part of it; another object inside counts for itself
        may_change = (may_change or not is_transparent) and not compares_optimizers
        yield reached, may_change
        waiting.extend((content, may_change) for content in _contents(reached))


@lru_cache(maxsize=1000)
def _traits(kind: Any) -> tuple[bool, bool, bool]:
    """Whether objects of a class are searched, are transparent, and compare optimizers, as modules and callbacks do."""
    # isinstance() would follow a weak proxy, and a stand-in would pass for an optimizer: only the class is asked
    return (
        not (kind in ProxyTypes or issubclass(kind, TYPES_NOT_SEARCHED)),
        issubclass(kind, TRANSPARENT_TYPES),
        issubclass(kind, (nn.Module, AnyCallback)),
    )


def _contents(holder: object) -> Iterable[object]:
    """The objects to which an object leads."""
    if isinstance(holder, dict | list | deque):
        return [place.get() for place in _places(holder)]
    if isinstance(holder, tuple | set | frozenset):
        return list(holder) if len(holder) <= MAX_ITEMS_SEARCHED else ()
    if isinstance(holder, MethodType):
        return (holder.__self__,)
    if isinstance(holder, partial):
        return (holder.func, *holder.args, *holder.keywords.values())
    if isinstance(holder, ref):
        return (holder(),)
    if isinstance(holder, FunctionType):
        contents = []
        for cell in holder.__closure__ or ():
            with suppress(ValueError):  # the cell is empty
                contents.append(cell.cell_contents)
        return contents
    if isinstance(holder, nn.Module):
        # without torch's own attributes, such as parameters and hooks; _modules, because children() may be overridden
        own = [value for name, value in vars(holder).items() if name not in ATTRIBUTES_OF_ANY_MODULE]
        return [*own, *holder._modules.values()]
    return [place.get() for place in _attributes(holder)]


def _places(holder: object) -> list[Place]:
    """The places in which an object holds other objects and in which these can be replaced."""
    if isinstance(holder, dict):
        return [Place(holder, key) for key in dict.keys(holder)] if len(holder) <= MAX_ITEMS_SEARCHED else []
    if isinstance(holder, list | deque):
        return [Place(holder, index) for index in range(len(holder))] if len(holder) <= MAX_ITEMS_SEARCHED else []
    if isinstance(holder, tuple | set | frozenset | MethodType | FunctionType | partial | ref):
        return []
    return _attributes(holder)


def _attributes(holder: object) -> list[Place]:
    try:
        # not vars(holder), which reads the attribute through a stand-in's or a user's __getattribute__
        entries: Any = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        entries = {}
    places = [Place(entries, name) for name in entries] if isinstance(entries, dict) else []
    for slot in _slots(cast(Any, type(holder))):
        with suppress(AttributeError):  # the slot is empty
            slot.__get__(holder)
            places.append(Place(holder, slot))
    return places


@lru_cache(maxsize=1000)
def _slots(kind: Any) -> tuple[MemberDescriptorType, ...]:
    members = (member for base in kind.__mro__ for member in vars(base).values())
    return tuple(member for member in members if isinstance(member, MemberDescriptorType))
