"""The partition of a module's parameters into components, in order of depth."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from structurenet_pl.structure.events import Clock, Component, GrowthEvent, lineage

# For each dimension of a tensor, the number of the growth event in which each index was born; 0 for the founding.
Generations = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)  # with slots, because snapshots search dataclasses that have a __dict__
class ComponentSpec:
    """A component without its name, before its depth in the network is computed.

    Args:
        path: Path of its module or parameter, ``""`` for parameters that stand directly on the outermost module.
        role: Its role, None if nobody gave one.
        born: When it was born.
        depth: Explicit depth, None if it follows from the order of definition.
        beside: Name of the component whose depth it shares.
    """

    path: str
    role: str | None = None
    born: Clock = field(default_factory=Clock)
    depth: int | None = None
    beside: str | None = None


@dataclass(frozen=True, eq=False)
class Structure:
    """The components of a module and the parameters of each.

    Args:
        components: The components by name, in order of depth.
        parameters: The parameters of each component, by their names in the module.
        tied: Second names of parameters that are shared between components -> the component that owns them, which
            is the first in order of definition.
        names: All names of parameters in the module, also second ones.
        generations: The generations of the indices of tensors that have entries of several generations.
        cohorts: The cohorts of components with entries of several generations, the oldest first: each is the component
            with another birth.
    """

    components: Mapping[str, Component]
    parameters: Mapping[str, Mapping[str, nn.Parameter]]
    tied: Mapping[str, str]
    names: Mapping[str, nn.Parameter]
    generations: Mapping[nn.Parameter, Generations] = field(default_factory=dict)
    cohorts: Mapping[str, tuple[Component, ...]] = field(default_factory=dict)

    def has_same_parameters(self, names: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are all its parameters, under these names, in this order."""
        return list(names) == list(self.names) and all(map(is_, names.values(), self.names.values()))

    def overlaps_component(self, name: str) -> bool:
        """Whether a component has this name, or contains or is contained in one of this name under other patterns."""
        around = {path for component in self.components for path in lineage(component)}
        return name in around or not self.components.keys().isdisjoint(lineage(name)) or "self" in self.components

    @cached_property
    def by_depth(self) -> tuple[Component, ...]:
        """The components in order of depth."""
        return tuple(self.components.values())

    @cached_property
    def owner(self) -> Mapping[nn.Parameter, str]:
        """Name of the component that each parameter belongs to."""
        return {tensor: name for name, tensors in self.parameters.items() for tensor in tensors.values()}

    @cached_property
    def parameter_names(self) -> Mapping[nn.Parameter, str]:
        """Name of each parameter in the module."""
        return {tensor: name for tensors in self.parameters.values() for name, tensor in tensors.items()}


def build_structure(all_parameters: Mapping[str, nn.Parameter], specs: Mapping[str, ComponentSpec]) -> Structure:
    """The structure of a module with these parameters (by all their names) and these components by name.

    Depth is the order of definition, except that a head comes last and an explicit depth wins.

    Raises:
        ValueError: If a parameter stands in no component.
    """
    names = {spec.path: name for name, spec in specs.items()}
    parameters: dict[str, dict[str, nn.Parameter]] = {}
    owner: dict[nn.Parameter, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in all_parameters.items():
        path = _innermost(name, names)
        if (first := owner.get(tensor)) is None:
            component = owner[tensor] = names[_checked(name, path)]
            parameters.setdefault(component, {})[name] = tensor
        elif first != names.get(path or ""):
            tied[name] = first
    in_order = [name for name in parameters if specs[name].depth is None]
    in_order.sort(key=lambda name: specs[name].role == "head" or "head" in name.split("."))  # a stable sort
    depths = {name: depth for depth, name in enumerate(in_order)}
    for name in parameters:
        if (depth := specs[name].depth) is not None:
            # a component inserted in front of the neighbour moves both; the number is for a neighbour that is gone
            depths[name] = depths.get(specs[name].beside or "", depth)
    components = [
        Component(name, specs[name].role, depth, specs[name].born, tuple(map(_shape, parameters[name].values())))
        for name, depth in sorted(depths.items(), key=lambda item: item[1])
    ]
    return Structure({component.name: component for component in components}, parameters, tied, all_parameters)


def apply_event(specs: Mapping[str, ComponentSpec], event: GrowthEvent) -> dict[str, ComponentSpec]:
    """The components after a growth event."""
    after = {name: spec for name, spec in specs.items() if name not in event.removed}
    for name in event.born:
        after[name] = ComponentSpec(name, event.role, event.clock, event.depth, event.beside)
    for name, path in event.moved.items():
        after[name] = replace(after[name], path=path)
    return after


def parameters_by_path(module: nn.Module, paths: Collection[str]) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters under each of the paths, in order of definition; each goes to the innermost path around it.

    Raises:
        ValueError: If a parameter stands under none of the paths.
    """
    under: dict[str, dict[str, nn.Parameter]] = {}
    for name, tensor in module.named_parameters():
        under.setdefault(_checked(name, _innermost(name, paths)), {})[name] = tensor
    return under


def parameters_by_all_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module by name; a parameter that is shared comes once for each of its names."""
    return dict(module.named_parameters(remove_duplicate=False))


def parameter_count(tensors: Iterable[Tensor]) -> int:
    """The number of entries; a lazy tensor has none before the first batch."""
    return sum(0 if is_lazy(tensor) else tensor.numel() for tensor in tensors)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor; a lazy one has none before the first batch."""
    return () if is_lazy(tensor) else tuple(tensor.shape)


def _innermost(name: str, paths: Collection[str]) -> str | None:
    """The innermost of the paths that lead to a parameter, None if none does."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name if name in paths else None


def _checked(name: str, path: str | None) -> str:
    """The path around a parameter.

    Raises:
        ValueError: If no path leads to the parameter.
    """
    if path is None:
        raise ValueError(
            f"parameter {name!r} belongs to no component: it was added outside a growth method, to a module that had "
            "grown before. Add it in a method marked with @growth()."
        )
    return path
