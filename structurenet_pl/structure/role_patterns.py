"""Patterns that select components, give them roles by name or class, and split one where a pattern matches a part."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from structurenet_pl.structure.component_inference import SEQUENCES
from structurenet_pl.structure.events import Component, lineage
from structurenet_pl.structure.partition import ComponentSpec, parameters_by_path

Modules = Mapping[str, nn.Module]  # by path
# What a pattern gives: a role, or {"role": a role, "depth": the name of a component or module whose depth is shared}.
Given = str | Mapping[str, str]
Patterns = Mapping[str, Given]


class Place(NamedTuple):
    """A module or parameter in a component, or the component itself: its path in there, and what a pattern may fit."""

    inside: str
    labels: list[str]


def apply_patterns(
    module: nn.Module, specs: Mapping[str, ComponentSpec], patterns: Patterns
) -> Mapping[str, ComponentSpec]:
    """The components with their roles; a pattern that matches a part of a component splits the component.

    The part has the depth of the component that it was cut from. A pattern that matches the whole component by the
    elements of one sequence replaces it by these elements, one after the other in depth.

    Args:
        module: Any module.
        specs: Its components before patterns.
        patterns: Pattern -> what it gives. A pattern is matched against module and parameter names as they were at
            birth, and against the names of module classes. The first match wins. What a growth method declared wins
            over all patterns.

    Raises:
        ValueError: If a pattern gives the depth of something that is no component, or has its depth by a pattern, too.
    """
    if not patterns:
        return specs
    result: dict[str, ComponentSpec] = {}
    names = {spec.path: name for name, spec in specs.items()}
    modules = dict(module.named_modules(remove_duplicate=False))
    for path, tensors in parameters_by_path(module, names).items():
        name = names[path]
        spec = specs[name]
        places = [list(_places(name, path, tensor, modules)) for tensor in tensors]
        if spec.role is not None:
            places = [places[0][:1]]  # the component itself: it has its role, so it is not split
        matches = [_first_match(some, patterns) for some in places]
        is_whole = len({pattern for pattern, _ in matches}) == 1
        if is_whole and not _names_elements(matches, name, path, modules):
            matches = [(matches[0][0], "")]
        for pattern, inside in matches:
            role, depth_of = _role_and_depth(patterns.get(pattern))
            part = replace(spec, role=spec.role or role, depth_of=depth_of if spec.depth is None else None)
            if inside:
                part = replace(part, path=_join(path, inside), cut_from=None if is_whole else name)
            result.setdefault(_join(_birthplace(name), inside) if inside else name, part)
    _check_depths(result)
    return result


def selects(where: Sequence[str], component: Component) -> bool:
    """Whether roles and name patterns select a component; one that begins with ``!`` leaves out what it matches.

    Example:
        >>> from structurenet_pl import Component
        >>> head, body = Component("head"), Component("body.0", role="scaffold")
        >>> [selects(["!head"], component) for component in (head, body)]
        [False, True]
        >>> [selects(["scaffold", "!body.0"], component) for component in (head, body)]
        [False, False]
    """
    wanted, left_out = wanted_and_left_out(where)
    return (not wanted or any(map(component.matches, wanted))) and not any(map(component.matches, left_out))


def wanted_and_left_out(where: Sequence[str]) -> tuple[list[str], list[str]]:
    """The roles and name patterns that select components, and those after a ``!``, which leave components out.

    Example:
        >>> wanted_and_left_out(["scaffold", "!body.0"])
        (['scaffold'], ['body.0'])
    """
    wanted = [pattern for pattern in where if not pattern.startswith("!")]
    return wanted, [pattern[1:] for pattern in where if pattern.startswith("!")]


def check_given(pattern: str, given: object) -> None:
    """Check what a pattern gives.

    Raises:
        ValueError: If it is neither a role nor a mapping with role, depth or both.
    """
    parts = given if isinstance(given, Mapping) else {"role": given}
    if not parts or not parts.keys() <= {"role", "depth"} or not all(isinstance(part, str) for part in parts.values()):
        raise ValueError(
            f"pattern {pattern!r} must give a role, as in 'new', or a mapping with role, depth or both, as in "
            f"{{'role': 'adapter', 'depth': 'blocks.0'}}; got {given!r}"
        )


def merge_patterns(*patterns: Patterns) -> dict[str, Given]:
    """One mapping of all patterns; what was given first for a pattern wins, and stands first."""
    merged: dict[str, Given] = {}
    for mapping in patterns:
        merged |= {pattern: given for pattern, given in mapping.items() if pattern not in merged}
    return merged


def unmatched_patterns(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """The patterns that fit no module with parameters and no parameter, neither its name nor its class."""
    modules = dict(module.named_modules(remove_duplicate=False))
    paths = {path for name, _ in module.named_parameters() for path in lineage(name)}
    labels = {label for path in paths for label in [path, *_class_names(modules.get(path))]}
    return [pattern for pattern in patterns if not any(fnmatchcase(label, pattern) for label in labels)]


def _places(name: str, path: str, tensor: str, modules: Modules) -> Iterator[Place]:
    """The component and what is inside it on the way to a tensor, outermost first.

    Args:
        name: Name of the component.
        path: Its path now.
        tensor: Name of the tensor now.
        modules: All modules by path.
    """
    birthplace = _birthplace(name)
    around = lineage(birthplace) if birthplace else []
    classes = [label for outer in lineage(path) for label in _class_names(modules.get(outer))] if path else []
    yield Place("", around + classes)
    if tensor != path:  # else the component is a single parameter
        for inside in lineage(tensor[len(path) :].lstrip(".")):
            yield Place(inside, [_join(birthplace, inside), *_class_names(modules.get(_join(path, inside)))])


def _first_match(places: Sequence[Place], patterns: Iterable[str]) -> tuple[str, str]:
    """The first pattern that fits one of the places, and the outermost place that it fits."""
    for pattern in patterns:
        for place in places:
            if any(fnmatchcase(label, pattern) for label in place.labels):
                return pattern, place.inside
    return "", ""


def _role_and_depth(given: Given | None) -> tuple[str | None, str | None]:
    return (given.get("role"), given.get("depth")) if isinstance(given, Mapping) else (given, None)


def _check_depths(specs: Mapping[str, ComponentSpec]) -> None:
    known = {path for name, spec in specs.items() if spec.depth_of is None for path in lineage(name)}
    for name, spec in specs.items():
        if spec.depth_of is not None and spec.depth_of not in known:
            others = [other for other in specs if specs[other].depth_of is None]
            raise ValueError(
                f"a pattern puts {name!r} at the depth of {spec.depth_of!r}, expected one of the components {others}, "
                "or a module around some of them"
            )


def _class_names(module: nn.Module | None) -> list[str]:
    """The names of a module's class and of the classes that it is derived from; none for a parameter.

    Base classes count, because parametrizations, sharding and lazy layers derive a class or replace it by its base.
    """
    bases = type(module).__mro__ if module is not None else ()
    return [base.__name__ for base in bases if issubclass(base, nn.Module) and base is not nn.Module]


def _names_elements(matches: Sequence[tuple[str, str]], name: str, path: str, modules: Modules) -> bool:
    """Whether a pattern matches a whole component by the names of all elements of one sequence in it."""
    elements = {inside for _, inside in matches}
    parents = {_join(path, inside).rpartition(".")[0] for inside in elements}
    by_name = all(inside and fnmatchcase(_join(_birthplace(name), inside), pattern) for pattern, inside in matches)
    return by_name and len(elements) > 1 and len(parents) == 1 and isinstance(modules[parents.pop()], SEQUENCES)


def _birthplace(name: str) -> str:
    """The path of a component when it was born, which is its name."""
    return "" if name == "self" else name


def _join(path: str, inside: str) -> str:
    return f"{path}.{inside}" if path and inside else path or inside
