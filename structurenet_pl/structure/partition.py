"""The partition of a module's parameters into components, in order of depth."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_, itemgetter

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from structurenet_pl.structure.events import Clock, Component, GrowthEvent, lineage

# For each dimension of a tensor, the number of the growth event in which each index was born; 0 for the founding.
Generations = tuple[tuple[int, ...], ...]

# Names of output layers, which some networks define before their trunk. Which module is called last is not known when a
# fit starts, and a resumed run must have the same depths; another name gets the role "head" by a pattern.
OUTPUT_NAMES = {"head", "lm_head", "cls_head", "classifier", "fc_out", "param_proj"}


@dataclass(frozen=True, slots=True)  # with slots, because snapshots search dataclasses that have a __dict__
class ComponentSpec:
    """A component without its name, before its depth in the network is computed.

    Args:
        path: Path of its module or parameter, ``""`` for parameters that stand directly on the outermost module.
        role: Its role, None if nobody gave one.
        born: When it was born.
        depth: Explicit depth, None if it follows from the order of definition.
        beside: Name of the component whose depth it shares.
        cut_from: Name of the component that a pattern has cut it from, whose depth it shares.
        depth_of: Name of a component or module at whose depth a pattern puts it.
    """

    path: str
    role: str | None = None
    born: Clock = field(default_factory=Clock)
    depth: int | None = None
    beside: str | None = None
    cut_from: str | None = None
    depth_of: str | None = None


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

    Depth is the order of definition, except that an output layer comes last, parts of one component share a depth, and
    an explicit depth wins.

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
    # (whether it is an output layer, the component that the depth is of), in order of definition
    places = {
        name: (_is_output(name, specs[name]), specs[name].cut_from or name)
        for name in parameters
        if specs[name].depth is None and specs[name].depth_of is None
    }
    in_order = sorted(dict.fromkeys(places.values()), key=itemgetter(0))  # a stable sort
    numbers = {place: depth for depth, place in enumerate(in_order)}
    depths = {name: numbers[place] for name, place in places.items()}
    around = _first_depths(depths)
    for name in parameters:
        if (depth := specs[name].depth) is not None:
            # a component inserted in front of the neighbour moves both, also if a pattern has split the neighbour;
            # the number is for a neighbour that is gone
            depths[name] = around.get(specs[name].beside or "", depth)
    around = _first_depths(depths)
    for name in parameters:
        if (neighbour := specs[name].depth_of) is not None:
            depths[name] = around[neighbour]
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


def modules_by_all_paths(module: nn.Module) -> dict[str, nn.Module]:
    """A module and all modules inside it by path, in order of definition; a shared one comes once for each path.

    It reads the dicts of torch's modules, which are private, because torch's own walk takes three times as long, and
    loading a log walks the network once for each event.
    """
    found = {}
    waiting = [("", module)]
    while waiting:
        path, part = waiting.pop()
        found[path] = part
        if part._modules:
            prefix = f"{path}." if path else ""
            children = [(prefix + key, child) for key, child in part._modules.items() if child is not None]
            waiting += reversed(children)
    return found


def parameters_by_all_names(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of modules by name; a parameter that is shared comes once for each of its names.

    Args:
        modules: The modules by all paths.
    """
    return {
        f"{path}.{key}" if path else key: tensor
        for path, part in modules.items()
        for key, tensor in part._parameters.items()  # private, but much faster than named_parameters()
        if tensor is not None
    }


def parameter_count(tensors: Iterable[Tensor]) -> int:
    """The number of entries; a lazy tensor has none before the first batch."""
    return sum(0 if is_lazy(tensor) else tensor.numel() for tensor in tensors)


def _first_depths(depths: Mapping[str, int]) -> dict[str, int]:
    """The depth of each component, and of the first component in each module around components."""
    return {path: depth for name, depth in reversed(list(depths.items())) for path in lineage(name)} | dict(depths)


def _is_output(name: str, spec: ComponentSpec) -> bool:
    return spec.role == "head" or not OUTPUT_NAMES.isdisjoint(name.split("."))


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
