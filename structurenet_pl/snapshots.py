"""What a module refers to, remembered and put back. Tensors are not copied."""

from collections.abc import Mapping
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
        self.tensors = [(tensor, tensor.data, tensor.requires_grad) for tensor in module.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        for part, content in self.parts:
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
        self._parts = {id(part): ref(part) for part, _ in snapshot.parts}  # weak: it is kept beside the module
        self._changed: dict[tuple[int, str], tuple[Any, Content | None]] = {}
        self._reshaped: dict[Tensor, Tensor] = {}

    def note(self, before: Snapshot) -> None:
        """Remember what a growth has changed, unless an earlier one had."""
        for part, content in before.parts:
            if id(part) not in self._parts:
                continue
            old = {key: (item, inner) for key, item, inner in content}
            for key in old.keys() | vars(part).keys():
                item, inner = old.get(key, (ABSENT, None))
                now = vars(part).get(key, ABSENT)
                if now is not item or not _is(inner, _content(now)):
                    self._changed.setdefault((id(part), key), (item, inner))
        for tensor, data, _ in before.tensors:
            if tensor.shape != data.shape:
                self._reshaped.setdefault(tensor, data)

    def is_whole(self, state_dict: Mapping[str, Tensor], prefix: str) -> bool:
        """Whether a state dict holds all parameters as they were then, and so is not just a part of a later one."""
        return all(
            prefix + name in state_dict and state_dict[prefix + name].shape == shape
            for name, shape in self._shapes.items()
        )

    def restore(self) -> None:
        """Bring the module back to the structure it was founded with; the values of its tensors are what they are."""
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
        for tensor, data in self._reshaped.items():
            tensor.data = data


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
        key == other_key and item is other_item and _is(inner, other_inner)
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
