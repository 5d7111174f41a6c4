"""Name patterns that give roles to components, and split a component where a pattern matches a part of it."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from structurenet_pl.structure.events import lineage
from structurenet_pl.structure.partition import ComponentSpec, parameters_by_path


def apply_patterns(
    module: nn.Module, specs: Mapping[str, ComponentSpec], patterns: Mapping[str, str]
) -> Mapping[str, ComponentSpec]:
    """The components with their roles; a pattern that matches a part of a component splits the component.

    Args:
        module: Any module.
        specs: Its components before patterns.
        patterns: Pattern -> role. A pattern is matched against module and parameter names as they were at birth. The
            first match wins. A role that a growth method declared wins over all patterns.
    """
    if not patterns:
        return specs
    result: dict[str, ComponentSpec] = {}
    names = {spec.path: name for name, spec in specs.items()}
    for path, tensors in parameters_by_path(module, names).items():
        name = names[path]
        spec = specs[name]
        birthplace = "" if name == "self" else name  # a name is the path at birth, except for this one
        matches = [_first_match(birthplace + tensor[len(path) :], patterns) for tensor in tensors]
        is_whole = spec.role is not None or len({pattern for pattern, _ in matches}) == 1
        for pattern, matched in matches:
            role = spec.role if spec.role is not None else patterns.get(pattern)
            inside = "" if is_whole or len(matched) <= len(birthplace) else matched[len(birthplace) :]
            result.setdefault(matched if inside else name, replace(spec, path=path + inside, role=role))
    return result


def merge_patterns(*patterns: Mapping[str, str]) -> dict[str, str]:
    """One mapping of all patterns; the role that was given first for a pattern wins, and stands first."""
    merged: dict[str, str] = {}
    for mapping in patterns:
        merged |= {pattern: role for pattern, role in mapping.items() if pattern not in merged}
    return merged


def unmatched_patterns(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """The patterns that fit no name of a module or parameter."""
    names = {path for name, _ in module.named_parameters() for path in lineage(name)}
    return [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]


def _first_match(name: str, patterns: Iterable[str]) -> tuple[str, str]:
    """The first pattern that fits a parameter or a module around it, and the outermost name that it fits."""
    for pattern in patterns:
        if matched := fnmatch.filter(lineage(name), pattern):
            return pattern, matched[0]
    return "", ""
