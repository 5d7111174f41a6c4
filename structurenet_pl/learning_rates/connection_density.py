"""How many of its connections a component has."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property

from torch import Tensor, nn

from structurenet_pl.structure.events import Component, lineage
from structurenet_pl.structure.partition import Structure


class Densities:
    """Density by component, measured when first asked for and then remembered.

    Args:
        module: The module.
        structure: Its components.
    """

    def __init__(self, module: nn.Module, structure: Structure) -> None:
        self._module = module
        self._structure = structure
        self._known: dict[str, float | None] = {}

    def __call__(self, component: Component) -> float | None:
        """Share of the component's connections that exist, None if it has no tensor of several dimensions."""
        if component.name not in self._known:
            self._known[component.name] = self._measure(self._structure.parameters[component.name])
        return self._known[component.name]

    @cached_property
    def _buffers(self) -> dict[str, Tensor]:
        return dict(self._module.named_buffers())

    def _measure(self, parameters: Mapping[str, nn.Parameter]) -> float | None:
        tensors = set(parameters.values())
        counts = [
            (self._present(name, tensor, tensors), tensor.numel())
            for name, tensor in parameters.items()
            if tensor.ndim > 1
        ]
        present, possible = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        return present / possible if possible else None

    def _present(self, name: str, tensor: nn.Parameter, component: AbstractSet[nn.Parameter]) -> float:
        """Number of connections of one tensor, by the first of three sources that has something to say."""
        mask = self._buffers.get(name.removesuffix("_orig") + "_mask")
        if mask is not None:
            return int(mask.count_nonzero())
        for path in [*reversed(lineage(name)[:-1]), ""]:
            module = self._module.get_submodule(path)
            get_density = getattr(module, "get_density", None)
            if callable(get_density) and component >= set(module.parameters()):
                return float(get_density()) * tensor.numel()
        return int(tensor.detach().count_nonzero())
