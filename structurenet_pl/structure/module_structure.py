"""The growth log of a module and its current components, which are computed from the log and cached."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import is_
from weakref import WeakKeyDictionary

from torch import nn

from structurenet_pl.structure.cohorts import with_cohorts
from structurenet_pl.structure.component_inference import founding_specs
from structurenet_pl.structure.events import Clock, GrowthEvent
from structurenet_pl.structure.partition import (
    ComponentSpec,
    Generations,
    Structure,
    apply_event,
    build_structure,
    modules_by_all_paths,
    parameters_by_all_names,
)
from structurenet_pl.structure.role_patterns import Given, Patterns, apply_patterns, check_given, merge_patterns


class HasGrowthLog(nn.Module):
    """A module with a growth log, and the data from which its components are computed.

    The data of ``Growable``. A class of its own, because Growable calls the functions that carry out and replay
    growth, and these functions need this class.
    """

    growth_log: tuple[GrowthEvent, ...] = ()
    """All growth events so far, the oldest first."""

    _founders: Mapping[str, ComponentSpec] | None = None  # None until the first growth: then inferred each time
    _generations: Mapping[str, Generations] = {}  # by name of the tensor, if its entries are of several generations
    _outer_patterns: Mapping[str, Given] = {}  # roles that a Components callback gives
    _is_growing: bool = False

    def configure_components(self) -> Patterns:
        """Pattern -> role, as for ``Components``; the first match wins.

        Override it to give roles to the parts of the module.
        """
        return {}


# Both caches are outside the module, because modules are copied and pickled: a copy has other parameters, and a cache
# in a checkpoint would be stale. Weak keys, so that an entry does not keep its module alive.
_SPECS: WeakKeyDictionary[
    HasGrowthLog, tuple[Mapping[str, ComponentSpec], tuple[GrowthEvent, ...], Mapping[str, ComponentSpec]]
] = WeakKeyDictionary()  # founders, log, components after the log
_STRUCTURES: WeakKeyDictionary[HasGrowthLog, tuple[Mapping[str, ComponentSpec], list[tuple[str, Given]], Structure]] = (
    WeakKeyDictionary()
)  # components before patterns, patterns, structure


def structure_of(module: nn.Module, patterns: Patterns | None = None) -> Structure:
    """The current components of a module and their parameters.

    Args:
        module: Any module; the growth log of a growable module is taken into account.
        patterns: Name pattern -> role, for a module that cannot grow; a growable module has its own patterns.
    """
    names = parameters_by_all_names(modules_by_all_paths(module))
    if isinstance(module, HasGrowthLog):
        return cached_structure(module, names, specs_of(module), all_patterns(module))
    return build_structure(names, apply_patterns(module, founding_specs(module), patterns or {}))


def growth_log(module: nn.Module) -> tuple[GrowthEvent, ...]:
    """The growth log of a module, empty for one that cannot grow."""
    return module.growth_log if isinstance(module, HasGrowthLog) else ()


def set_outer_patterns(module: HasGrowthLog, patterns: Patterns) -> None:
    """Give roles from outside the class; they win over the module's own patterns."""
    module._outer_patterns = dict(patterns)


def all_patterns(module: HasGrowthLog) -> dict[str, Given]:
    """Name pattern -> role, from outside and of the module itself."""
    own = module.configure_components()
    for pattern, given in own.items():
        check_given(pattern, given)
    return merge_patterns(module._outer_patterns, own)


def specs_of(module: HasGrowthLog) -> Mapping[str, ComponentSpec]:
    """The components by founding and growth, before patterns. Only events that were added since are applied."""
    founders, log = module._founders, module.growth_log
    if founders is None:
        return founding_specs(module)
    known_founders, known_log, specs = _SPECS.get(module, (None, (), founders))
    # compared by identity: a comparison by value would cost more than the events that it saves
    if known_founders is not founders or len(known_log) > len(log) or not all(map(is_, known_log, log)):
        known_log, specs = (), founders
    specs = reduce(apply_event, log[len(known_log) :], specs)
    cache_specs(module, specs)
    return specs


def cache_specs(module: HasGrowthLog, specs: Mapping[str, ComponentSpec]) -> None:
    """Store the components that the founders and the current growth log give."""
    if module._founders is not None:
        _SPECS[module] = module._founders, module.growth_log, specs


def cached_structure(
    module: HasGrowthLog,
    names: Mapping[str, nn.Parameter],
    specs: Mapping[str, ComponentSpec],
    patterns: Patterns,
) -> Structure:
    """The structure of a module; it is built again only if parameters, components or patterns have changed."""
    known_specs, known_patterns, known = _STRUCTURES.get(module, (None, [], None))
    in_order = list(patterns.items())  # a list, because dicts in another order are equal, and the first match wins
    if known is None or known_specs is not specs or known_patterns != in_order or not known.has_same_parameters(names):
        known = build_structure(names, apply_patterns(module, specs, patterns))
        if module._generations:
            known = with_cohorts(known, module._generations, module.growth_log)
        _STRUCTURES[module] = specs, in_order, known
    return known


def clear_structure_cache(module: HasGrowthLog) -> None:
    """Release the parameters in the cached structure, which the module may no longer have."""
    _STRUCTURES.pop(module, None)


def replace_last_event(module: HasGrowthLog, event: GrowthEvent) -> None:
    """Replace the last event of the log by one that gives the same components."""
    specs = specs_of(module)
    module.growth_log = (*module.growth_log[:-1], event)
    cache_specs(module, specs)


def clear_dates(module: HasGrowthLog) -> None:
    """Set step and epoch of all events to 0: a date means nothing on the clock of another run."""
    module.growth_log = tuple(
        replace(event, clock=Clock(generation=event.clock.generation)) for event in module.growth_log
    )
