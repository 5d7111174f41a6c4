"""What a module was before it grew, remembered in order to go back."""

from collections.abc import Mapping, Set
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from structurenet_pl.structure.rollback import ABSENT, Contents, Snapshot, put_back
from structurenet_pl.structure.tensor_mapping import bring, shape_of, whereabouts


class Founding:
    """What a module referred to before its first growth, where growth has changed it since.

    It holds what growth has taken out of the module, tensors included, so that this comes back as it was: with its
    values, attributes and hooks, and still shared with whatever shares it.

    Args:
        module: Before its first growth.
        snapshot: Of the module.
    """

    def __init__(self, module: nn.Module, snapshot: Snapshot) -> None:
        self._shapes = {name: shape_of(tensor) for name, tensor in module.named_parameters()}
        self._dtype = whereabouts(snapshot.data)[1]
        self._parts = WeakSet(snapshot.parts)  # weak, because it is kept beside the module
        self._changed: WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Contents]]] = WeakKeyDictionary()
        self._kinds: WeakKeyDictionary[nn.Module, type[nn.Module]] = WeakKeyDictionary()
        self._reshaped: dict[Tensor, Tensor] = {}

    def note(self, before: Snapshot) -> None:
        """Remember what a growth has changed, unless an earlier one had."""
        for state in before.changed():
            if (part := state.part) not in self._parts:
                continue
            if state.kind is not type(part):
                self._kinds.setdefault(part, state.kind)
            for key, item, contents in state.changed():
                self._changed.setdefault(part, {}).setdefault(key, (item, contents))
        for tensor, data in zip(before.tensors, before.data, strict=True):
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
        for part, changed in list(self._changed.items()):
            for key, (item, contents) in changed.items():
                if item is ABSENT:
                    vars(part).pop(key, None)
                else:
                    vars(part)[key] = item
                    put_back(contents)
        for part, kind in list(self._kinds.items()):
            part.__class__ = kind
        for tensor, data in self._reshaped.items():
            tensor.data = data
        bring(chain(module.parameters(), module.buffers()), device, dtype if self._dtype else None)


def holds(state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size | None]) -> bool:
    """Whether a state dict holds tensors of these names and shapes; None fits any shape."""
    return all(name in state_dict and shape in (None, shape_of(state_dict[name])) for name, shape in shapes.items())
