"""The modules and parameters of a module at a moment, by name: growth compares those before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from structurenet_pl.structure.module_structure import HasGrowthLog, cached_structure
from structurenet_pl.structure.partition import (
    ComponentSpec,
    Structure,
    modules_by_all_paths,
    parameters_by_all_names,
)
from structurenet_pl.structure.tensor_mapping import shape_of


class Inventory:
    """The modules and parameters of a module at a moment.

    Args:
        module: The module.

    Attributes:
        modules: Its modules by path, also by second paths, in order of definition.
        by_every_name: Its parameters by name, also by second names, in order of definition.
        by_first_name: Its parameters by their first names.
        shapes: Shapes of its parameters by their first names, None for lazy ones.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = modules_by_all_paths(module)
        self.by_every_name = parameters_by_all_names(self.modules)
        # by id, because the hash of a tensor is a call of Python code; from the last to the first name, so that the
        # first wins
        self._first_names = dict(
            zip(map(id, reversed(self.by_every_name.values())), reversed(self.by_every_name), strict=True)
        )
        is_shared = len(self._first_names) < len(self.by_every_name)
        self.by_first_name: Mapping[str, nn.Parameter] = (
            {name: tensor for name, tensor in self.by_every_name.items() if self._first_names[id(tensor)] == name}
            if is_shared
            else self.by_every_name
        )
        # one object for equal shapes: with thousands of objects more, the garbage collection takes as long as the rest
        known: dict[torch.Size | None, torch.Size | None] = {}
        self.shapes = {
            name: known.setdefault(shape, shape)
            for name, tensor in self.by_first_name.items()
            for shape in [shape_of(tensor)]
        }

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._first_names

    def name_of(self, tensor: Tensor) -> str:
        """The first name of a parameter."""
        return self._first_names[id(tensor)]

    @property
    def parameter_count(self) -> int:
        """The number of entries; a lazy tensor has none before the first batch."""
        return sum(shape.numel() for shape in self.shapes.values() if shape is not None)


@dataclass(frozen=True, eq=False)
class NetworkState:
    """A module at a moment: before a growth or after it.

    Args:
        module: The module.
        inventory: Its modules and parameters.
        specs: Its components, before patterns.
    """

    module: HasGrowthLog
    inventory: Inventory
    specs: Mapping[str, ComponentSpec]

    @cached_property
    def structure(self) -> Structure:
        """Its structure, without names given by patterns. To be asked for before the next growth is logged.

        It is made only if it is needed: a log is loaded event by event, and most events only add components.
        """
        # without patterns: they may be of another Trainer, and an event must be the same under any patterns
        return cached_structure(self.module, self.inventory.by_every_name, self.specs, {})
