"""What a module refers to, remembered and put back. Values of tensors are not copied."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Set
from itertools import chain
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from structurenet_pl.successors import shape_of

Content = list[tuple[Any, Any]]  # a container and those in it, each with a copy of what it holds
CONTAINERS = (dict, list, set, deque, tuple)
ABSENT = object()
NOTHING: Content = []  # of what is no container
EMPTY: Content = []  # of an empty one, as most are in a module: hooks that nobody has set


class Snapshot:
    """What every submodule of a module refers to at a moment, and shapes, flags and hooks of its tensors.

    Containers are followed into dicts, lists, sets, deques, tuples and dataclasses, but not into objects of other
    classes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = [
            (part, {key: (item, _content(item)) for key, item in vars(part).items()}) for part in module.modules()
        ]
        self.kinds = {part: type(part) for part, _ in self.parts}  # a parametrization changes it
        self.tensors = [
            (tensor, tensor.data, tensor.requires_grad, [(hooks, _content(hooks)) for hooks in _hooks(tensor)])
            for tensor in chain(module.parameters(), module.buffers())
        ]

    def restore(self) -> None:
        """Put everything back."""
        for part, attributes in self.parts:
            part.__class__ = self.kinds[part]
            vars(part).clear()
            vars(part).update({key: item for key, (item, _) in attributes.items()})
            for item, content in attributes.values():
                _put_back(item, content)
        for tensor, data, requires_grad, all_hooks in self.tensors:
            tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad = requires_grad
            for (hooks, content), now in zip(all_hooks, _hooks(tensor), strict=True):
                _put_back(hooks, content)
                if hooks is None and now:
                    now.clear()


class Founding:
    """What a module referred to before its first growth, where growth has changed it since.

    Args:
        snapshot: Taken before the first growth.
        shapes: Shapes of its parameters then, by name, None for lazy ones.
    """

    def __init__(self, snapshot: Snapshot, shapes: Mapping[str, torch.Size | None]) -> None:
        self._shapes = dict(shapes)
        self._dtype = whereabouts(data for _, data, *_ in snapshot.tensors)[1]
        self._parts = {id(part): ref(part) for part, _ in snapshot.parts}  # weak: it is kept beside the module
        self._changed: dict[tuple[int, str], tuple[Any, Content]] = {}
        self._kinds: dict[int, type[nn.Module]] = {}
        self._reshaped: dict[Tensor, Tensor] = {}

    def note(self, before: Snapshot) -> None:
        """Remember what a growth has changed, unless an earlier one had."""
        for part, attributes in before.parts:
            if id(part) not in self._parts:
                continue
            if (kind := before.kinds[part]) is not type(part):
                self._kinds.setdefault(id(part), kind)
            now = vars(part)
            for key in attributes.keys() | now.keys():
                item, content = attributes.get(key, (ABSENT, NOTHING))
                if now.get(key, ABSENT) is not item or not _holds(item, content):
                    self._changed.setdefault((id(part), key), (item, content))
        for tensor, data, *_ in before.tensors:
            if shape_of(tensor) != shape_of(data):
                self._reshaped.setdefault(tensor, data)

    def is_whole(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether a state dict holds all parameters as they were then, and so is not just a part of a later one."""
        return holds(state_dict, self._shapes)

    @property
    def names(self) -> Set[str]:
        """The names of its parameters then."""
        return self._shapes.keys()

    def restore(self, module: nn.Module) -> None:
        """Bring the module back to the structure it was founded with; the values of its tensors are what they are.

        Args:
            module: It may have been moved or cast since; what its growth had taken out follows.
        """
        device, dtype = whereabouts(module.parameters())
        for (number, key), (item, content) in self._changed.items():
            part = self._parts[number]()
            if part is None:
                continue
            if item is ABSENT:
                vars(part).pop(key, None)
            else:
                vars(part)[key] = item
                _put_back(item, content)
        for number, kind in self._kinds.items():
            if (part := self._parts[number]()) is not None:
                part.__class__ = kind
        for tensor, data in self._reshaped.items():
            tensor.data = data
        bring(chain(module.parameters(), module.buffers()), device, dtype if self._dtype else None)


def holds(state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size | None]) -> bool:
    """Whether a state dict holds tensors of these names and shapes; None fits any shape."""
    return all(name in state_dict and shape in (None, shape_of(state_dict[name])) for name, shape in shapes.items())


def whereabouts(tensors: Iterable[Tensor]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the first floating point tensor, and the dtype of all if they have one in common."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    dtypes = {tensor.dtype for tensor in floating}
    return next((tensor.device for tensor in floating), None), dtypes.pop() if len(dtypes) == 1 else None


def bring(tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Bring tensors to a device, and floating point ones to a dtype; None leaves them."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)


def _hooks(tensor: Tensor) -> tuple[Any, Any]:
    """The hooks of a tensor by number, None where nobody has set any; torch has no public names for them."""
    return tensor._backward_hooks, tensor._post_accumulate_grad_hooks


def _content(value: Any) -> Content:
    """What a container and the containers in it hold, each once, whatever holds what."""
    if isinstance(value, CONTAINERS):
        if not value:
            return EMPTY if not isinstance(value, tuple) else NOTHING
    elif not _is_dataclass(type(value)):
        return NOTHING
    found: Content = []
    seen: set[int] = set()
    waiting = [value]
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
        kinds = {kind for kind in set(map(type, items)) if issubclass(kind, CONTAINERS) or _is_dataclass(kind)}
        if kinds:
            waiting.extend(item for item in items if type(item) in kinds)
    return found


def _is_dataclass(kind: type) -> bool:
    """Whether it is a class of plain data, with attributes in a dict."""
    has_dict = kind.__dictoffset__ != 0  # one with slots has none
    return hasattr(kind, "__dataclass_fields__") and has_dict and not issubclass(kind, nn.Module)


def _holds(value: Any, content: Content) -> bool:
    """Whether a container, and those in it, hold the same objects in the same order."""
    return not value if content is EMPTY else all(_are_same(container, held) for container, held in content)


def _are_same(container: Any, held: Any) -> bool:
    if len(container) != len(held):
        return False
    if not held:
        return True
    if isinstance(container, dict):
        return all(map(is_, container, held)) and all(map(is_, container.values(), held.values()))
    return all(map(is_, container, held))


def _put_back(value: Any, content: Content) -> None:
    """Give a container, and those in it, what they held, whatever methods a class of somebody's own has for that."""
    for container, held in [(value, ())] if content is EMPTY else content:
        if not _are_same(container, held):
            kind: Any = next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))
            kind.clear(container)
            fill = kind.extend if issubclass(kind, list | deque) else kind.update
            fill(container, held)
