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


class State(NamedTuple):
    """What a part of a module refers to.

    Args:
        part: The part.
        kind: Its class, which a parametrization changes.
        attributes: Its attributes.
        empty: The containers among them that are empty, as most are: hooks that nobody has set.
        contents: What the other containers hold, and those in them, by attribute.
    """

    part: nn.Module
    kind: type[nn.Module]
    attributes: dict[str, Any]
    empty: list[Any]
    contents: dict[str, Contents]

    def differs(self) -> bool:
        """Whether the part refers to something else by now."""
        same = type(self.part) is self.kind and _are_same(vars(self.part), self.attributes)
        held = chain.from_iterable(self.contents.values())
        return not same or any(self.empty) or not all(starmap(_are_same, held))

    def changed(self) -> Iterator[tuple[str, Any, Contents]]:
        """The attributes that were something else, or held something else, with that; ABSENT for new ones."""
        now = vars(self.part)
        for key in self.attributes.keys() | now.keys():
            item, contents = self.attributes.get(key, ABSENT), self.contents.get(key, [])
            was_empty = isinstance(item, CONTAINERS) and not contents
            if now.get(key, ABSENT) is not item or not all(starmap(_are_same, contents)) or (was_empty and item):
                yield key, item, contents if not was_empty else [(item, ())]


class Snapshot:
    """What every submodule of a module refers to at a moment, and shapes, flags and hooks of its tensors.

    Containers are followed into dicts, lists, sets, deques, tuples and dataclasses, but not into objects of other
    classes.
    """

    def __init__(self, module: nn.Module) -> None:
        self._followed = _Followed()
        self.states = [self._state(part) for part in module.modules()]
        self.tensors = [
            (tensor, tensor.data, tensor.requires_grad, hooks := _hooks(tensor), self._of_hooks(hooks))
            for part in module.modules()
            for held in (part._parameters, part._buffers)  # what its methods give, in a third of the time
            for tensor in held.values()
            if tensor is not None
        ]

    def changed(self) -> Iterator[State]:
        """The parts that refer to something else by now."""
        return (state for state in self.states if state.differs())

    def restore(self) -> None:
        """Put everything back."""
        for part, kind, attributes, empty, contents in self.states:
            part.__class__ = kind
            vars(part).clear()
            vars(part).update(attributes)
            put_back(chain.from_iterable(contents.values()))
            put_back((container, ()) for container in empty)
        for tensor, data, requires_grad, hooks, held in self.tensors:
            tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad = requires_grad
            put_back(held)
            put_back((new, ()) for old, new in zip(hooks, _hooks(tensor), strict=True) if old is None and new)

    def _of_hooks(self, hooks: tuple[Any, Any]) -> Contents:
        return [] if hooks == (None, None) else _contents(hooks, self._followed)

    def _state(self, part: nn.Module) -> State:
        attributes = dict(vars(part))
        followed = [item for item in attributes.items() if self._followed[type(item[1])]]
        empty = [value for _, value in followed if not value and isinstance(value, CONTAINERS)]
        contents = {
            key: _contents([value], self._followed)
            for key, value in followed
            if value or not isinstance(value, CONTAINERS)
        }
        return State(part, type(part), attributes, empty, contents)


def put_back(contents: Iterable[tuple[Any, Any]]) -> None:
    """Give containers what they held, whatever methods a class of somebody's own has for that."""
    for container, held in contents:
        if not _are_same(container, held):
            kind: Any = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))
            kind.clear(container)
            fill = kind.extend if issubclass(kind, list | deque) else kind.update
            fill(container, held)


def _contents(values: Iterable[Any], followed: "_Followed") -> Contents:
    """What the containers among some values and the containers in them hold, each once, whatever holds what."""
    found: Contents = []
    waiting = [value for value in values if followed[type(value)]]
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
