"""Which components a module has: by its structure, by name patterns, in order of depth."""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from structurenet_pl.structure.events import Clock, Component, GrowthEvent, lineage

COMPILED = "_orig_mod"  # what torch.compile wraps
MIN_REPEATED_LAYERS = 3  # layers of one class; two are a block
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)  # so that snapshots do not look into it
class Part:
    """What is known of a component beside its name, before its depth can be told.

    Args:
        path: Path of its module or parameter, ``""`` for parameters that stand directly on the outermost module.
        role: Its role, None if nobody said.
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
    """The components of a module and what belongs to each.

    Args:
        components: The components by name, in order of depth.
        parameters: The parameters of each component, by their names in the module.
        tied: Second names of parameters that are shared between components -> the component that owns them, which
            is the first in order of definition.
        names: All names of parameters in the module, also second ones.
    """

    components: Mapping[str, Component]
    parameters: Mapping[str, Mapping[str, nn.Parameter]]
    tied: Mapping[str, str]
    names: Mapping[str, nn.Parameter]

    def has(self, names: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are all its parameters, under these names, in this order."""
        return list(names) == list(self.names) and all(map(is_, names.values(), self.names.values()))

    def knows(self, name: str) -> bool:
        """Whether there is such a component, or one that it would be a part of under other patterns, or the reverse."""
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


def founding_roots(module: nn.Module) -> dict[str, Part]:
    """The components that the structure of a module gives, before names and growth.

    Single wrapping children are passed through; then each child is a component, but a container is replaced by its
    elements, once, and a child with repeated blocks inside (such as the backbone beside a head) by its own children,
    and so on.
    """
    return {path or "self": Part(path) for path in split(module, set(_paths(module)))}


def refine(module: nn.Module, roots: Mapping[str, Part], patterns: Mapping[str, str]) -> Mapping[str, Part]:
    """The components with their roles; a pattern that reaches into one splits it.

    Args:
        module: Any module.
        roots: The components by structure and growth.
        patterns: Pattern -> role. It is matched against module and parameter names as they were at birth, the first
            match wins. A role that a growth method declared stands.
    """
    if not patterns:
        return roots
    parts: dict[str, Part] = {}
    names = {part.path: name for name, part in roots.items()}
    for path, tensors in split(module, names).items():
        root = roots[names[path]]
        birthplace = "" if names[path] == "self" else names[path]
        found = [_first_match(birthplace + tensor[len(path) :], patterns) for tensor in tensors]
        whole = root.role is not None or len({pattern for pattern, _ in found}) == 1
        for pattern, matched in found:
            role = root.role if root.role is not None else patterns.get(pattern)
            inside = "" if whole or len(matched) <= len(birthplace) else matched[len(birthplace) :]
            name = names[path] if not inside else matched
            parts.setdefault(name, replace(root, path=path + inside, role=role))
    return parts


def with_event(parts: Mapping[str, Part], event: GrowthEvent) -> dict[str, Part]:
    """The parts after a growth event."""
    after = {name: part for name, part in parts.items() if name not in event.removed}
    for name in event.born:
        after[name] = Part(name, event.role, event.clock, event.depth, event.beside)
    for name, path in event.moved.items():
        after[name] = replace(after[name], path=path)
    return after


def split(module: nn.Module, paths: Collection[str]) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters under each of the paths, in order of definition; each goes to the innermost path around it.

    Raises:
        ValueError: If a parameter stands under none of the paths.
    """
    under: dict[str, dict[str, nn.Parameter]] = {}
    for name, tensor in module.named_parameters():
        under.setdefault(_checked(name, _innermost(name, paths)), {})[name] = tensor
    return under


def build(all_parameters: Mapping[str, nn.Parameter], parts: Mapping[str, Part]) -> Structure:
    """The structure of a module that has these parameters, also by second names, and these parts by name.

    Depth is the order of definition, a head comes last, an explicit depth wins.
    """
    names = {part.path: name for name, part in parts.items()}
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
    in_order = [name for name in parameters if parts[name].depth is None]
    in_order.sort(key=lambda name: parts[name].role == "head" or "head" in name.split("."))
    depths = {name: depth for depth, name in enumerate(in_order)}
    for name in parameters:
        if (depth := parts[name].depth) is not None:
            depths[name] = depths.get(parts[name].beside or "", depth)
    components = [
        Component(name, parts[name].role, depth, parts[name].born)
        for name, depth in sorted(depths.items(), key=lambda item: item[1])
    ]
    return Structure({component.name: component for component in components}, parameters, tied, all_parameters)


def all_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module by all their names, also second ones."""
    return dict(module.named_parameters(remove_duplicate=False))


def first_wins(*patterns: Mapping[str, str]) -> dict[str, str]:
    """One mapping of patterns, in the order in which they are tried; what is given first is not overruled later."""
    merged: dict[str, str] = {}
    for some in patterns:
        merged |= {pattern: role for pattern, role in some.items() if pattern not in merged}
    return merged


def parameter_count(tensors: Iterable[Tensor]) -> int:
    """The number of entries; a lazy tensor has none before the first batch."""
    return sum(0 if is_lazy(tensor) else tensor.numel() for tensor in tensors)


def unmatched(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """The patterns that fit no name of a module or parameter."""
    names = {path for name, _ in module.named_parameters() for path in lineage(name)}
    return [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]


def _paths(module: nn.Module, path: str = "", outermost: bool = True) -> Iterator[str]:
    if COMPILED in module._modules:
        path, module = _join(path, COMPILED), module.get_submodule(COMPILED)
    within, inner = path, module
    while not isinstance(inner, CONTAINERS) and not _own_parameters(inner) and len(_children(inner)) == 1:
        [(name, inner)] = _children(inner).items()
        within = _join(within, name)
    if not (outermost or isinstance(module, CONTAINERS) or _repeats(inner)):
        yield path
        return
    if _own_parameters(inner):
        yield within
    for name, child in _children(inner).items():
        if isinstance(inner, CONTAINERS):
            yield _join(within, name)
        else:
            yield from _paths(child, _join(within, name), outermost=False)


def _repeats(module: nn.Module) -> bool:
    """Whether there are blocks inside: in a sequence or list several of one class, or in a sequence many layers."""
    for inner in module.modules():
        if isinstance(inner, nn.Sequential | nn.ModuleList):
            layers = Counter(type(child) for child in _children(inner).values() if not _children(child))
            blocks = Counter(type(child) for child in _children(inner).values() if _children(child))
            many = isinstance(inner, nn.Sequential) and max(layers.values(), default=0) >= MIN_REPEATED_LAYERS
            if many or max(blocks.values(), default=0) > 1:
                return True
    return False


def _innermost(name: str, paths: Collection[str]) -> str | None:
    """The innermost of the paths that lead to a parameter."""
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name if name in paths else None


def _checked(name: str, path: str | None) -> str:
    if path is None:
        raise ValueError(
            f"parameter {name!r} belongs to no component: it was added to a module that had grown, outside a growth "
            "method. Add it in a method marked with @growth()."
        )
    return path


def _first_match(name: str, patterns: Iterable[str]) -> tuple[str, str]:
    """The first pattern that fits a parameter or a module around it, and the outermost name that it fits."""
    for pattern in patterns:
        if matched := fnmatch.filter(lineage(name), pattern):
            return pattern, matched[0]
    return "", ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold parameters."""
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def _own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
