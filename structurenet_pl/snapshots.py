"""What a module refers to, remembered and put back. Tensors are not copied."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

Content = list[tuple[Any, Any, "Content | None"]]  # key, item and content of the item
ABSENT = object()


class Snapshot:
    """What every submodule of a module refers to at a moment, and shape and flags of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = [(part, _content(vars(part)) or []) for part in module.modules()]
        self.kinds = {part: type(part) for part, _ in self.parts}  # a parametrization changes it
        self.tensors = [(tensor, tensor.data, tensor.requires_grad) for tensor in module.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        for part, content in self.parts:
            part.__class__ = self.kinds[part]
            _put_back(vars(part), content)
        for tensor, data, requires_grad in self.tensors:
            tensor.data = data
            tensor.requires_grad = requires_grad


class Founding:
    """What a module referred to before its first growth, where growth has changed it since.

    Args:
        snapshot: Taken before the first growth.
        shapes: Shapes of its parameters then, by name.
    """

    def __init__(self, snapshot: Snapshot, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = dict(shapes)
        self._dtype = whereabouts(data for _, data, _ in snapshot.tensors)[1]
        self._parts = {id(part): ref(part) for part, _ in snapshot.parts}  # weak: it is kept beside the module
        self._changed: dict[tuple[int, str], tuple[Any, Content | None]] = {}
        self._kinds: dict[int, type[nn.Module]] = {}
        self._reshaped: dict[Tensor, Tensor] = {}

    def note(self, before: Snapshot) -> None:
        """Remember what a growth has changed, unless an earlier one had."""
        for part, content in before.parts:
            if id(part) not in self._parts:
                continue
            if (kind := before.kinds[part]) is not type(part):
                self._kinds.setdefault(id(part), kind)
            old = {key: (item, inner) for key, item, inner in content}
            for key in old.keys() | vars(part).keys():
                item, inner = old.get(key, (ABSENT, None))
                now = vars(part).get(key, ABSENT)
                if now is not item or not _is(inner, _content(now)):
                    self._changed.setdefault((id(part), key), (item, inner))
        for tensor, data, _ in before.tensors:
            if tensor.shape != data.shape:
                self._reshaped.setdefault(tensor, data)

    def is_whole(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether a state dict holds all parameters as they were then, and so is not just a part of a later one."""
        return all(name in state_dict and state_dict[name].shape == shape for name, shape in self._shapes.items())

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
            attributes = vars(part)
            if item is ABSENT:
                attributes.pop(key, None)
            else:
                attributes[key] = item
                _put_back(item, content)
        for number, kind in self._kinds.items():
            if (part := self._parts[number]()) is not None:
                part.__class__ = kind
        for tensor, data in self._reshaped.items():
            tensor.data = data
        bring(chain(module.parameters(), module.buffers()), device, dtype if self._dtype else None)


def whereabouts(tensors: Iterable[Tensor]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the first floating point tensor, and the dtype of all if they have one in common."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    dtypes = {tensor.dtype for tensor in floating}
    return next((tensor.device for tensor in floating), None), dtypes.pop() if len(dtypes) == 1 else None


def bring(tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Bring tensors to a device, and floating point ones to a dtype; None leaves them."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)


def _content(value: Any) -> Content | None:
    """Key, item and content of what a container holds, down to the innermost; None for anything else."""
    if isinstance(value, dict):
        return [(key, item, _content(item)) for key, item in value.items()]
    if isinstance(value, list | set):
        return [(None, item, _content(item)) for item in value]
    return None


def _is(one: Content | None, other: Content | None) -> bool:
    """Whether two contents are the same objects in the same order."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        (key is other_key or (not isinstance(key, Tensor) and key == other_key))
        and item is other_item
        and _is(inner, other_inner)
        for (key, item, inner), (other_key, other_item, other_inner) in zip(one, other, strict=True)
    )


def _put_back(value: Any, content: Content | None) -> None:
    """Give a container and the containers in it what they held."""
    if content is None:
        return
    for _, item, inner in content:
        _put_back(item, inner)
    value.clear()
    if isinstance(value, dict):
        value.update({key: item for key, item, _ in content})
    elif isinstance(value, list):
        value.extend(item for _, item, _ in content)
    else:
        value.update(item for _, item, _ in content)
