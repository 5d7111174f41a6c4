"""How many of its connections a component has."""

from collections.abc import Iterator, Mapping

from torch import nn

from structurenet_pl.components import Structure
from structurenet_pl.events import Component, lineage


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

    def _measure(self, parameters: Mapping[str, nn.Parameter]) -> float | None:
        counts = [
            (self._present(name, tensor), tensor.numel()) for name, tensor in parameters.items() if tensor.ndim > 1
        ]
        present, possible = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        return present / possible if possible else None

    def _present(self, name: str, tensor: nn.Parameter) -> float:
        """Number of connections of one tensor, by the first of three sources that has something to say."""
        for module in self._around(name):
            if callable(get_density := getattr(module, "get_density", None)):
                return float(get_density()) * tensor.numel()
        mask = dict(self._module.named_buffers()).get(name.removesuffix("_orig") + "_mask")
        return int((tensor.detach() if mask is None else mask).count_nonzero())

    def _around(self, name: str) -> Iterator[nn.Module]:
        yield from (self._module.get_submodule(path) for path in reversed(lineage(name)[:-1]))
