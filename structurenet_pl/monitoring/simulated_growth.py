"""Growth without training: the components that a run would have, and the log of their growth."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from structurenet_pl.engine.package_callbacks import AsksForGrowth
from structurenet_pl.monitoring.simulated_work import NetworkSize
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, Unit, lineage
from structurenet_pl.structure.grow import one_growth
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.module_structure import set_outer_patterns, structure_of
from structurenet_pl.structure.random_states import kept_rng
from structurenet_pl.structure.replay_log import replay
from structurenet_pl.structure.role_patterns import Patterns

Log = tuple[GrowthEvent, ...]
GenerationsByName = dict[str, tuple[int, ...]]  # of the entries of components, without components of one generation
ShapesByName = dict[str, tuple[tuple[int, ...], ...]]  # of the tensors of components
FOUNDING_NETWORK = Component("founding network", role="scaffold")  # stands for a module that is not given


@runtime_checkable
class ClockTrigger(AsksForGrowth, Protocol):
    """A trigger that goes by the clock alone, as ``GrowEvery`` does."""

    unit: Unit

    def due(self, before: int, after: int) -> int:
        """Number of growths that are due between two times, in the unit of the trigger."""

    def request(self, pl_module: Growable) -> GrowthRequest:
        """The growth that the trigger requests."""


def complete_clocks(log: Iterable[GrowthEvent], steps_per_epoch: int) -> Log:
    """The log with step, epoch and generation in every event: one that was written by hand may hold only epochs."""
    events = []
    for generation, event in enumerate(log, 1):
        step = max(event.clock.step, event.clock.epoch * steps_per_epoch)
        events.append(replace(event, clock=Clock(step, step // steps_per_epoch, generation)))
    return tuple(events)


class SimulatedGrowth(NamedTuple):
    """The growth of a run without training.

    Args:
        log: The growth log.
        components: All components that the run would ever have.
        entries: The generations of the entries of components, after each number of growth events from 0 on; only of
            components that have entries of other generations than their own. A growth log alone does not show them.
        shapes: The shapes of components after each number of growth events; where they are not known, those of the
            end of the run count.
        sizes: The size of the network after each number of growth events, None where it is not known; a log alone
            does not show it.
    """

    log: Log
    components: list[Component]
    entries: list[GenerationsByName]
    shapes: list[ShapesByName]
    sizes: list[NetworkSize | None]


def simulate_growth(
    module: nn.Module | None,
    log: Log,
    triggers: Sequence[ClockTrigger],
    patterns: Patterns,
    steps: int,
    steps_per_epoch: int,
    measure: Callable[[nn.Module], NetworkSize | None],
) -> SimulatedGrowth:
    """Grow a copy of a module as a run would.

    Args:
        module: The module, None if it is not known.
        log: The growth log, empty if the triggers decide.
        triggers: Triggers that grow the module in the course of the run.
        patterns: Name pattern -> role.
        steps: Number of optimizer steps of the run.
        steps_per_epoch: Number of optimizer steps in an epoch.
        measure: Measures the network between two growth events.
    """
    known, entries = ComponentsByBirth(), [GenerationsByName()]
    shapes: list[ShapesByName] = []
    sizes: list[NetworkSize | None] = []
    if module is None:
        known.add([FOUNDING_NETWORK])
    elif isinstance(module, Growable):
        module = deepcopy(module)
        set_outer_patterns(module, patterns)
        known.add(structure_of(module).by_depth)  # before growth, which may remove components
        entries = _entries_so_far(module)
        shapes = [*[ShapesByName()] * len(module.growth_log), _shapes_now(module)]
        sizes = [*[None] * len(module.growth_log), measure(module)]
        logged = () if module.growth_log else _grow_by_log(module, log)
        for _ in chain(logged, _grow_by_clock(module, triggers, steps, steps_per_epoch)):
            entries.append(_generations_now(module))
            shapes.append(_shapes_now(module))
            sizes.append(measure(module))
        if triggers:
            log = module.growth_log
    else:
        sizes = [measure(module)]
    if module is not None:
        known.add(structure_of(module, patterns).by_depth)
    # components that the module does not have: born and removed on the way, or no module was given
    for event in log:
        for name in event.born:
            if not known.includes(name, event.clock.generation):
                depth = event.depth if event.depth is not None else known.deepest(event.adjacent)
                known.add([Component(name, event.role, depth, event.clock)])
    births = {event.clock.generation: event.clock for event in log}
    components = [
        replace(component, born=births.get(component.born.generation, component.born)) for component in known.values()
    ]
    return SimulatedGrowth(log, components, entries, shapes, sizes)


class ComponentsByBirth(dict[tuple[str, int], Component]):
    """Components by name and generation of birth, because a name may come back after a removal."""

    def add(self, components: Iterable[Component]) -> None:
        """Add components, or replace them by their present state."""
        self.update({(component.name, component.born.generation): component for component in components})

    def includes(self, name: str, generation: int) -> bool:
        """Whether it holds a component of this birth with this name, or a part of such a component."""
        return any(born == generation and name in lineage(other) for other, born in self)

    def deepest(self, names: Collection[str]) -> int:
        """The largest depth of the components with these names, 0 without any."""
        return max((component.depth for component in self.values() if component.name in names), default=0)


def _generations_now(module: Growable) -> GenerationsByName:
    cohorts = structure_of(module).cohorts
    return {name: tuple(cohort.born.generation for cohort in some) for name, some in cohorts.items()}


def _shapes_now(module: Growable) -> ShapesByName:
    return {component.name: component.shapes for component in structure_of(module).by_depth}


def _entries_so_far(module: Growable) -> list[GenerationsByName]:
    """The generations after each event of the module's own log, except of entries that later events removed."""
    now = _generations_now(module)
    return [
        {name: tuple(one for one in some if one <= end) for name, some in now.items() if some[0] <= end}
        for end in range(len(module.growth_log) + 1)
    ]


def _grow_by_log(module: Growable, log: Log) -> Iterator[None]:
    """Grow a module by a log, event by event, because a later event may remove what an earlier one added."""
    for number in range(1, len(log) + 1):
        replay(module, log[:number])
        yield


def _grow_by_clock(
    module: Growable, triggers: Sequence[ClockTrigger], steps: int, steps_per_epoch: int
) -> Iterator[None]:
    """Grow a module at the steps at which a run would grow it; growth that is due at the end of the run is left out."""
    # a run grows at the end of a batch before it grows at the start of the next epoch
    steps_first = sorted(triggers, key=lambda trigger: trigger.unit == "epoch")
    for step in range(1, steps):
        before, after = (Clock(time, time // steps_per_epoch) for time in (step - 1, step))
        for trigger in steps_first:
            for _ in range(trigger.due(before.count(trigger.unit), after.count(trigger.unit))):
                with kept_rng(), one_growth(module, trigger.request(module), after):
                    pass
                yield
