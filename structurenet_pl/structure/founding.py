"""The structure of a module before its first growth, kept so that an earlier checkpoint can undo all growth."""

from collections.abc import Mapping, Set
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from structurenet_pl.structure.rollback import ABSENT, Contents, Snapshot, refill
from structurenet_pl.structure.tensor_mapping import common_device_and_dtype, move_tensors, shape_of


class Founding:
    """The references of a module before its first growth, where growth has changed them since.

    It holds the objects that growth removed from the module, tensors included. So they come back with their values,
    attributes and hooks, and are still shared with the modules that shared them. Of a parameter that growth reshaped in
    place it holds the shape only: a state dict brings its values.

    Args:
        module: The module before its first growth.
        snapshot: A snapshot of the module.
    """

    def __init__(self, module: nn.Module, snapshot: Snapshot) -> None:
        self._shapes = {name: shape_of(tensor) for name, tensor in module.named_parameters()}
        self._dtype = common_device_and_dtype(snapshot.data)[1]
        # weak, because the founding is a value of _FOUNDINGS: a strong reference to the module would keep its key alive
        self._modules = WeakSet(snapshot.modules)
        self._changed: WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Contents]]] = WeakKeyDictionary()
        self._kinds: WeakKeyDictionary[nn.Module, type[nn.Module]] = WeakKeyDictionary()
        self._reshaped: dict[Tensor, Tensor] = {}

    def note(self, module: nn.Module, before: Snapshot) -> None:
        """Add the changes of one growth. ``setdefault``, because the state before the first change counts."""
        for state in before.changed():
            if (part := state.module) not in self._modules:
                continue  # added by an earlier growth
            if state.kind is not type(part):
                self._kinds.setdefault(part, state.kind)
            for key, item, contents in state.changed():
                self._changed.setdefault(part, {}).setdefault(key, (item, contents))
        for tensor, data in zip(before.tensors, before.data, strict=True):
            if shape_of(tensor) != shape_of(data):
                # no state dict has to hold each buffer
                self._reshaped.setdefault(tensor, data.to("meta") if isinstance(tensor, nn.Parameter) else data)
        for tensor in set(before.tensors).difference(module.parameters()):
            tensor.grad = None  # of a parameter that growth has removed: nobody would free it

    def is_whole(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether a state dict holds all founding parameters, and so is more than a part of a later state dict."""
        return holds(state_dict, self._shapes)

    @property
    def names(self) -> Set[str]:
        """The names of the founding parameters."""
        return self._shapes.keys()

    def restore(self, module: nn.Module) -> None:
        """Restore the founding structure of the module. Parameters that growth had reshaped are zero.

        Args:
            module: It may have been moved or cast since; the objects that come back are moved and cast, too.
        """
        device, dtype = common_device_and_dtype(module.parameters())
        for part, changed in list(self._changed.items()):
            for key, (item, contents) in changed.items():
                if item is ABSENT:
                    vars(part).pop(key, None)
                else:
                    vars(part)[key] = item
                    refill(contents)
        for part, kind in list(self._kinds.items()):
            part.__class__ = kind
        for tensor, data in self._reshaped.items():
            tensor.data = torch.zeros_like(data, device=device) if data.is_meta else data
        # a module of several dtypes keeps them
        move_tensors(chain(module.parameters(), module.buffers()), device, dtype if self._dtype else None)


# Outside the module, because modules are copied and pickled, and the objects in a founding belong to one module only.
# Weak keys, so that an entry does not keep its module alive.
_FOUNDINGS: WeakKeyDictionary[nn.Module, Founding] = WeakKeyDictionary()


def founding_of(module: nn.Module) -> Founding | None:
    """The founding of a module, None if the module has not grown, or is a copy of a grown module."""
    return _FOUNDINGS.get(module)


def set_founding(module: nn.Module, founding: Founding | None) -> None:
    """Store or remove the founding of a module."""
    _FOUNDINGS.pop(module, None)
    if founding is not None:
        _FOUNDINGS[module] = founding


def holds(state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size | None]) -> bool:
    """Whether a state dict holds tensors of these names and shapes; None fits any shape."""
    return all(name in state_dict and shape in (None, shape_of(state_dict[name])) for name, shape in shapes.items())
