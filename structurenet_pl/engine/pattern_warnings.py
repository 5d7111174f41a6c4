"""Warnings of roles and name patterns that match nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain

from torch import nn

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.structure.events import Component
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.growth_methods import growth_methods
from structurenet_pl.structure.listed_names import listed
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.role_patterns import Patterns, unmatched_patterns, wanted_and_left_out


def warn_unmatched(module: nn.Module, patterns: Patterns) -> None:
    """Warn of component patterns that match nothing."""
    if idle := unmatched_patterns(module, patterns):
        names = [name for name, _ in module.named_children()]
        rank_zero_warn(
            f"component patterns {idle} match no module or parameter; the outermost names are {names}. Patterns are "
            "matched against whole dotted names, as in 'encoder.*'."
        )


def components_of_growth(module: Growable) -> list[Component]:
    """Components that growth has added, or may add: a pattern that fits one of them is no mistake."""
    born = [Component(name, event.role) for event in module.growth_log for name in event.born]
    return born + [Component("", method.role) for method in growth_methods(type(module)).values()]


def warn_acting_on_nothing(
    where: Mapping[str, Sequence[str]], structure: Structure, others: Iterable[Component]
) -> list[str]:
    """Warn of patterns in ``where`` that match no component: one warning for each pattern.

    Args:
        where: The roles and name patterns to which each factor is limited.
        structure: The components.
        others: Components that patterns may match, too.

    Returns:
        The factors that act on no component.
    """
    idle = _unmatched(chain.from_iterable(where.values()), structure, others)
    for pattern in idle:
        calls = [f"{label}(where={pattern!r})" for label, patterns in where.items() if pattern in patterns]
        name = pattern.removeprefix("!")
        subject, is_one = ", ".join(calls), len(calls) == 1
        if name == pattern:
            finding = f"{subject} {'acts' if is_one else 'act'} on nothing"
            example_pattern = _largest_part(structure)
        else:
            finding = f"{subject} {'leaves' if is_one else 'leave'} nothing out"
            example_pattern = structure.by_depth[-1].name
        rank_zero_warn(f"{finding}: {_advice(name, example_pattern, structure)}")
    wanted = {label: wanted_and_left_out(patterns)[0] for label, patterns in where.items()}
    return [label for label, patterns in wanted.items() if patterns and set(patterns) <= set(idle)]


def warn_looking_for_nothing(
    looks_for: Mapping[str, Sequence[str]], structure: Structure, others: Iterable[Component]
) -> list[str]:
    """Warn of roles and patterns in other arguments than ``where`` that match no component.

    Args:
        looks_for: The roles and name patterns that each factor looks for.
        structure: The components.
        others: Components that patterns may match, too.

    Returns:
        The factors that find none of them.
    """
    missing = {label: _unmatched(names, structure, others) for label, names in looks_for.items()}
    for label, names in missing.items():
        for name in names:
            advice = _advice(name, _largest_part(structure), structure)
            rank_zero_warn(f"{label} looks for {name!r} and finds nothing: {advice}")
    return [label for label, names in missing.items() if names and names == list(dict.fromkeys(looks_for[label]))]


def _unmatched(patterns: Iterable[str], structure: Structure, others: Iterable[Component]) -> list[str]:
    """The patterns that match no component, also without the ``!`` for leaving out."""
    # a cohort may have another role
    parts = [*structure.by_depth, *chain.from_iterable(structure.cohorts.values()), *others]
    return [
        pattern
        for pattern in dict.fromkeys(patterns)
        if not any(part.matches(pattern.removeprefix("!")) for part in parts)
    ]


def _advice(name: str, example_pattern: str, structure: Structure) -> str:
    """What a name may have been meant to be, or how to make it a role."""
    names = names_and_roles(structure.by_depth)
    unknown = f"{name!r} is neither the role nor a name pattern of any of the components {names}."
    roles = [part.role for part in structure.by_depth if part.role]
    # the default of .6 would take 'body.4' for 'body.*'
    if similar := get_close_matches(name, [*roles, *structure.components], n=1, cutoff=0.75):
        return f"{unknown} Did you mean {similar[0]!r}?"
    example = f'Components({{"{example_pattern}": "{name}"}})'
    return f"{unknown} If it is a role, give it to components, as in {example}; else correct it."


def names_and_roles(components: Iterable[Component]) -> str:
    """The names of components, with their roles in brackets."""
    return listed([f"{part.name} ({part.role})" if part.role else part.name for part in components])


def _largest_part(structure: Structure) -> str:
    """A pattern for the components of the module that has most of them."""
    parents = Counter(name.rpartition(".")[0] for name in structure.components if "." in name)
    return f"{parents.most_common(1)[0][0]}.*" if parents else next(iter(structure.components), "*")
