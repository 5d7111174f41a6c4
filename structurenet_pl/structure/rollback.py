"""What a module refers to, remembered and put back. Values of tensors are not copied."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import chain, starmap
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor, nn

Contents = list[tuple[Any, Any]]  # containers, each with a copy of what it holds
CONTAINERS = (dict, list, set, deque, tuple)
ABSENT = object()
NO_HOOKS = (None, None)


class State(NamedTuple):
    """What a part of a module referred to.

    Args:
        part: The part.
        kind: Its class, which a parametrization changes.
        attributes: Its attributes.
        held: What each container among them held, and those in it, by attribute; none for those that were empty.
    """

    part: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    held: dict[str, Contents]

    def changed(self) -> Iterator[tuple[str, Any, Contents]]:
        """The attributes that were something else, or held something else, with that; ABSENT for new ones."""
        now = vars(self.part)
        for key in self.attributes.keys() | now.keys():
            item, contents = self.attributes.get(key, ABSENT), self.held.get(key, [])
            if isinstance(item, CONTAINERS) and key not in self.held:
                contents = [(item, ())]
            if now.get(key, ABSENT) is not item or not all(starmap(_are_same, contents)):
                yield key, item, contents


class Snapshot:
    """What every submodule of a module refers to at a moment, and shapes, flags and hooks of its tensors.

    Containers are followed into dicts, lists, sets, deques, tuples and dataclasses, but not into objects of other
    classes. It is kept in few long lists, because growth takes one of all modules, however little it changes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = list(module.modules())
        self._kinds = [type(part) for part in self.parts]
        self._keys: list[tuple[str, ...]] = []
        self._values: list[Any] = []
        self._empty: list[Any] = []
        self._held: list[list[tuple[str, Contents]]] = []
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        followed = _Followed()
        for part in self.parts:
            attributes = vars(part)
            keys = tuple(attributes)
            self._keys.append(known.setdefault(keys, keys))  # the same for all of a class
            self._values += attributes.values()
            containers = [(key, value) for key, value in attributes.items() if followed[type(value)]]
            self._empty += [value for _, value in containers if not value and isinstance(value, CONTAINERS)]
            filled = [(key, value) for key, value in containers if value or not isinstance(value, CONTAINERS)]
            self._held.append([(key, _contents(value, followed)) for key, value in filled])
        self.tensors = [
            tensor
            for part in self.parts
            for held in (part._parameters, part._buffers)  # what its methods give, in a third of the time
            for tensor in held.values()
            if tensor is not None
        ]
        self.data = [tensor.data for tensor in self.tensors]
        self._requires_grad = [tensor.requires_grad for tensor in self.tensors]
        self._hooks = {tensor: hooks for tensor in self.tensors if (hooks := _hooks(tensor)) != NO_HOOKS}
        self._held_by_hooks = [*chain.from_iterable(_contents(hooks, followed) for hooks in self._hooks.values())]

    def changed(self) -> Iterator[State]:
        """The parts that refer to something else by now."""
        filled = {id(container) for container in self._empty if container}
        for part, kind, keys, values, held in self._states():
            now = vars(part)
            same = type(part) is kind and tuple(now) == keys and all(map(is_, now.values(), values))
            is_filled = filled and not filled.isdisjoint(map(id, values))
            if not same or is_filled or not all(all(starmap(_are_same, contents)) for _, contents in held):
                yield State(part, kind, dict(zip(keys, values, strict=True)), dict(held))

    def restore(self) -> None:
        """Put everything back."""
        for part, kind, keys, values, held in self._states():
            part.__class__ = kind
            vars(part).clear()
            vars(part).update(zip(keys, values, strict=True))
            for _, contents in held:
                put_back(contents)
        put_back((container, ()) for container in self._empty)
        for tensor, data, requires_grad in zip(self.tensors, self.data, self._requires_grad, strict=True):
            tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad = requires_grad
            before, now = self._hooks.get(tensor, NO_HOOKS), _hooks(tensor)
            put_back((new, ()) for old, new in zip(before, now, strict=True) if old is None and new)
        put_back(self._held_by_hooks)

    def _states(self) -> Iterator[tuple[nn.Module, type[nn.Module], tuple[str, ...], list[Any], Any]]:
        start = 0
        for part, kind, keys, held in zip(self.parts, self._kinds, self._keys, self._held, strict=True):
            yield part, kind, keys, self._values[start : start + len(keys)], held
            start += len(keys)


def put_back(contents: Iterable[tuple[Any, Any]]) -> None:
    """Give containers what they held, whatever methods a class of somebody's own has for that."""
    for container, held in contents:
        if not _are_same(container, held):
            kind: Any = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))
            kind.clear(container)
            fill = kind.extend if issubclass(kind, list | deque) else kind.update
            fill(container, held)


def _contents(value: Any, followed: "_Followed") -> Contents:
    """What a container and the containers in it hold, each once, whatever holds what."""
    if type(value) is dict and not any(map(followed.__getitem__, map(type, value.values()))):
        return [(value, dict(value))]  # as nearly always; it is the same as below
    found: Contents = []
    waiting = [value]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        one = one if isinstance(one, CONTAINERS) else vars(one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        held: Any = dict(one) if isinstance(one, dict) else list(one)
        if not isinstance(one, tuple):
            found.append((one, held))
        items = held.values() if isinstance(one, dict) else held
        if kinds := {kind for kind in set(map(type, items)) if followed[kind]}:
            waiting.extend(item for item in items if type(item) in kinds)
    return found


class _Followed(dict[type, bool]):
    """Whether what an object of a class holds is remembered; it is asked for thousands of objects of a few classes."""

    def __missing__(self, kind: type) -> bool:
        has_dict = kind.__dictoffset__ != 0  # a dataclass with slots has none
        is_data = hasattr(kind, "__dataclass_fields__") and has_dict and not issubclass(kind, nn.Module)
        self[kind] = issubclass(kind, CONTAINERS) or is_data
        return self[kind]


def _hooks(tensor: Tensor) -> tuple[Any, Any]:
    """The hooks of a tensor by number, None where nobody has set any; torch has no public names for them."""
    return tensor._backward_hooks, tensor._post_accumulate_grad_hooks


def _are_same(container: Any, held: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if len(container) != len(held):
        return False
    if isinstance(container, dict) and held:
        return all(map(is_, container, held)) and all(map(is_, container.values(), held.values()))
    return all(map(is_, container, held))
