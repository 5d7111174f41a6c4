"""The share of the connections of a component that exist, for factors of sparse networks."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property

import torch
from torch import Tensor, nn

from structurenet_pl.structure.events import Component, lineage
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.sharded_tensors import local_entries, sum_over_shards


class Densities:
    """Measures the density of each component once, when it is first read.

    The driver makes new densities in each epoch and after each growth.

    Args:
        module: The module.
        structure: The components of the module.

    Example:
        >>> from structurenet_pl.structure.module_structure import structure_of
        >>> module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        >>> _ = nn.init.eye_(module[0].weight)
        >>> structure = structure_of(module)
        >>> Densities(module, structure)(structure.components["0"])
        0.25
    """

    def __init__(self, module: nn.Module, structure: Structure) -> None:
        self._module = module
        self._structure = structure
        self._measured: dict[str, float | None] = {}

    def __call__(self, component: Component) -> float | None:
        """The share of the component's connections that exist, None if it has no tensor of several dimensions."""
        if component.name not in self._measured:
            self._measured[component.name] = self._measure(self._structure.parameters[component.name])
        return self._measured[component.name]

    @cached_property
    def _buffers(self) -> dict[str, Tensor]:
        return dict(self._module.named_buffers())

    def _measure(self, parameters: Mapping[str, nn.Parameter]) -> float | None:
        own = set(parameters.values())
        tensors = {name: tensor for name, tensor in parameters.items() if tensor.ndim > 1}
        declared = [self._declared_connections(name, tensor, own) for name, tensor in tensors.items()]
        undeclared = [tensor for tensor, count in zip(tensors.values(), declared, strict=True) if count is None]
        nonzeros = iter(_count_nonzeros(undeclared))
        existing = sum(next(nonzeros) if count is None else count for count in declared)
        possible = sum(tensor.numel() for tensor in tensors.values())
        return existing / possible if possible else None

    def _declared_connections(
        self, name: str, tensor: nn.Parameter, component: AbstractSet[nn.Parameter]
    ) -> float | None:
        """The number of connections of a tensor by its mask, else by ``get_density``, None if it has neither."""
        # torch.nn.utils.prune renames the parameter to weight_orig and registers the buffer weight_mask
        mask = self._buffers.get(name.removesuffix("_orig") + "_mask")
        if mask is not None:
            return int(mask.count_nonzero())
        for path in [*reversed(lineage(name)[:-1]), ""]:  # from the innermost module to the whole network
            module = self._module.get_submodule(path)
            get_density = getattr(module, "get_density", None)
            # a module with parameters of other components speaks of these, too
            if callable(get_density) and component >= set(module.parameters()):
                return float(get_density()) * tensor.numel()
        return None


def _count_nonzeros(tensors: Sequence[nn.Parameter]) -> list[int]:
    """The number of non-zero entries of each tensor, with one wait for the device."""
    if not tensors:
        return []
    counts = [local_entries(tensor.detach()).count_nonzero() for tensor in tensors]
    counts_here = torch.stack([count.to(counts[0].device) for count in counts])  # a split module has several devices
    return list(map(round, sum_over_shards(counts_here.double(), tensors).tolist()))
