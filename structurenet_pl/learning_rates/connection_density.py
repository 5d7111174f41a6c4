"""The share of the connections of a component that exist, for factors of sparse networks."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property

from torch import Tensor, nn

from structurenet_pl.structure.events import Component, lineage
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.sharded_tensors import shard, sum_over_shards


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
        tensors = set(parameters.values())
        counts = [
            (self._existing_connections(name, tensor, tensors), tensor.numel())
            for name, tensor in parameters.items()
            if tensor.ndim > 1
        ]
        existing, possible = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        return existing / possible if possible else None

    def _existing_connections(self, name: str, tensor: nn.Parameter, component: AbstractSet[nn.Parameter]) -> float:
        """The number of connections of a tensor, by the first source that knows: mask, ``get_density``, non-zeros."""
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
        present = shard(tensor.detach()).count_nonzero()
        return round(float(sum_over_shards(present.double()[None], [tensor])))
