"""Snapshots of all references in a module, to restore them after an error. Values of tensors are not copied."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import chain, starmap
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor, nn

Contents = list[tuple[Any, Any]]  # containers, each with a copy of its items
CONTAINERS = (dict, list, set, deque, tuple)
ABSENT = object()  # stands for an attribute that did not exist; None may be its value
NO_HOOKS = (None, None)


class ModuleState(NamedTuple):
    """The references of one module, without its submodules, at the time of a snapshot.

    Args:
        module: The module.
        kind: Its class, which a parametrization changes.
        attributes: Its attributes.
        held: The items of each container among the attributes, and of containers inside it, by attribute; no entry for
            an empty container.
    """

    module: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    held: dict[str, Contents]

    def changed(self) -> Iterator[tuple[str, Any, Contents]]:
        """The attributes that have changed, with their old values and contents; ABSENT is the value of new ones."""
        now = vars(self.module)
        for key in self.attributes.keys() | now.keys():
            item, contents = self.attributes.get(key, ABSENT), self.held.get(key, [])
            if isinstance(item, CONTAINERS) and key not in self.held:
                contents = [(item, ())]
            if now.get(key, ABSENT) is not item or not all(starmap(_are_same, contents)):
                yield key, item, contents


class Snapshot:
    """The references of a module and all its submodules at a moment, and data, flags and hooks of their tensors.

    Dicts, lists, sets, deques, tuples and dataclasses are searched for further containers; objects of other classes
    are not.

    The snapshot consists of a few long lists instead of one object for each submodule: each growth takes a snapshot
    of the whole module, and thousands of small objects would make a small growth slow.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = list(module.modules())
        self._kinds = [type(part) for part in self.modules]
        self._keys: list[tuple[str, ...]] = []
        self._values: list[Any] = []
        self._empty: list[Any] = []  # most containers are empty; one flat list of them is faster than an entry for each
        self._held: list[list[tuple[str, Contents]]] = []
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        searched = _SearchedKinds()
        for part in self.modules:
            attributes = vars(part)
            keys = tuple(attributes)
            self._keys.append(known.setdefault(keys, keys))  # one tuple for all modules of a class saves memory
            self._values += attributes.values()
            containers = [(key, value) for key, value in attributes.items() if searched[type(value)]]
            self._empty += [value for _, value in containers if not value and isinstance(value, CONTAINERS)]
            filled = [(key, value) for key, value in containers if value or not isinstance(value, CONTAINERS)]
            self._held.append([(key, _contents(value, searched)) for key, value in filled])
        self.tensors = [
            tensor
            for part in self.modules
            # private, but three times as fast as parameters() and buffers()
            for held in (part._parameters, part._buffers)
            for tensor in held.values()
            if tensor is not None
        ]
        self.data = [tensor.data for tensor in self.tensors]  # shares memory, but keeps the shape and dtype of now
        self._requires_grad = [tensor.requires_grad for tensor in self.tensors]
        self._hooks = {tensor: hooks for tensor in self.tensors if (hooks := _hooks(tensor)) != NO_HOOKS}
        self._held_by_hooks = [*chain.from_iterable(_contents(hooks, searched) for hooks in self._hooks.values())]

    def changed(self) -> Iterator[ModuleState]:
        """The states of the modules that have changed since."""
        filled = {id(container) for container in self._empty if container}
        for part, kind, keys, values, held in self._states():
            now = vars(part)
            same = type(part) is kind and tuple(now) == keys and all(map(is_, now.values(), values))
            is_filled = filled and not filled.isdisjoint(map(id, values))
            if not same or is_filled or not all(all(starmap(_are_same, contents)) for _, contents in held):
                yield ModuleState(part, kind, dict(zip(keys, values, strict=True)), dict(held))

    def restore(self) -> None:
        """Restore all references, and data, flags and hooks of all tensors."""
        # modules that were added need nothing: no reference to them is left
        for part, kind, keys, values, held in self._states():
            part.__class__ = kind
            vars(part).clear()  # not setattr: torch's own would register, check and reorder
            vars(part).update(zip(keys, values, strict=True))
            for _, contents in held:
                refill(contents)
        refill((container, ()) for container in self._empty)
        for tensor, data, requires_grad in zip(self.tensors, self.data, self._requires_grad, strict=True):
            tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad = requires_grad
            before, now = self._hooks.get(tensor, NO_HOOKS), _hooks(tensor)
            refill((new, ()) for old, new in zip(before, now, strict=True) if old is None and new)
        refill(self._held_by_hooks)

    def _states(self) -> Iterator[tuple[nn.Module, type[nn.Module], tuple[str, ...], list[Any], Any]]:
        """Each module with its class, keys and values of attributes, and contents of containers."""
        start = 0
        for part, kind, keys, held in zip(self.modules, self._kinds, self._keys, self._held, strict=True):
            yield part, kind, keys, self._values[start : start + len(keys)], held
            start += len(keys)


def refill(contents: Iterable[tuple[Any, Any]]) -> None:
    """Restore the items of containers."""
    for container, held in contents:
        if not _are_same(container, held):
            kind: Any = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))
            # the methods of the base class: a subclass may have overridden its own to check or to record
            kind.clear(container)
            fill = kind.extend if issubclass(kind, list | deque) else kind.update
            fill(container, held)


def _contents(value: Any, searched: "_SearchedKinds") -> Contents:
    """The items of a container and of all containers inside it; each container comes once, also in a cycle."""
    if type(value) is dict and not any(map(searched.__getitem__, map(type, value.values()))):
        return [(value, dict(value))]  # the most frequent case, faster; the result is that of the general case below
    contents: Contents = []
    waiting = [value]
    seen: set[int] = set()
    while waiting:
        container = waiting.pop()
        container = container if isinstance(container, CONTAINERS) else vars(container)  # a dataclass
        if id(container) in seen:
            continue
        seen.add(id(container))
        held: Any = dict(container) if isinstance(container, dict) else list(container)
        if not isinstance(container, tuple):  # a tuple cannot change, but its items can
            contents.append((container, held))
        items = held.values() if isinstance(container, dict) else held
        if kinds := {kind for kind in set(map(type, items)) if searched[kind]}:
            waiting.extend(item for item in items if type(item) in kinds)
    return contents


class _SearchedKinds(dict[type, bool]):
    """Whether objects of a class are searched for containers; cached, for thousands of objects have few classes."""

    def __missing__(self, kind: type) -> bool:
        has_dict = kind.__dictoffset__ != 0  # a dataclass with slots has none
        is_data = hasattr(kind, "__dataclass_fields__") and has_dict and not issubclass(kind, nn.Module)
        self[kind] = issubclass(kind, CONTAINERS) or is_data
        return self[kind]


def _hooks(tensor: Tensor) -> tuple[Any, Any]:
    """The hooks of a tensor by number, None if it has none. The names are private: torch has no public ones."""
    return tensor._backward_hooks, tensor._post_accumulate_grad_hooks


def _are_same(container: Any, held: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if len(container) != len(held):
        return False
    if isinstance(container, dict) and held:
        return all(map(is_, container, held)) and all(map(is_, container.values(), held.values()))
    return all(map(is_, container, held))
