"""Growth without training: what the network of a run would be made of."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import nn

from structurenet_pl.engine.package_callbacks import AsksForGrowth
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, Unit, lineage
from structurenet_pl.structure.grow import one_growth
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.module_structure import set_outer_patterns, structure_of
from structurenet_pl.structure.random_states import kept_rng
from structurenet_pl.structure.replay_log import replay

Log = tuple[GrowthEvent, ...]
FOUNDERS = Component("founding network", role="scaffold")


@runtime_checkable
class ClockTrigger(AsksForGrowth, Protocol):
    """A trigger that goes by the clock alone; :class:`~structurenet_pl.GrowEvery` is one."""

    unit: Unit

    def due(self, before: int, after: int) -> int:
        """How many growths are due when time moves on, in its unit."""

    def request(self, pl_module: Growable) -> GrowthRequest:
        """What it asks for."""


def dated(log: Iterable[GrowthEvent], steps_per_epoch: int) -> Log:
    """The log with numbers and complete dates: one that was written by hand may hold nothing but epochs."""
    events = []
    for number, event in enumerate(log, 1):
        step = max(event.clock.step, event.clock.epoch * steps_per_epoch)
        events.append(replace(event, clock=Clock(step, step // steps_per_epoch, number)))
    return tuple(events)


def rehearse(
    module: nn.Module | None,
    log: Log,
    triggers: Sequence[ClockTrigger],
    patterns: Mapping[str, str],
    epochs: int,
    steps_per_epoch: int,
) -> tuple[Log, list[Component]]:
    """All components that a run would ever have, and the log of their growth; the module stays as it is.

    Args:
        module: The module, None if it is not known.
        log: The growth log, empty if the triggers decide.
        triggers: What grows the module in the course of the run.
        patterns: Name pattern -> role.
        epochs: Length of the run.
        steps_per_epoch: Optimizer steps in an epoch.
    """
    known = Known()
    if module is None:
        known.add([FOUNDERS])
    elif isinstance(module, Growable):
        module = deepcopy(module)
        set_outer_patterns(module, patterns)
        known.add(structure_of(module).by_depth)  # growth may remove some
        if not module.growth_log:
            replay(module, log)
        if triggers:
            _grow(module, triggers, epochs * steps_per_epoch, steps_per_epoch)
            log = module.growth_log
    if module is not None:
        known.add(structure_of(module, patterns).by_depth)
    for event in log:
        for name in event.born:
            if not known.has(name, event.clock.generation):
                depth = event.depth if event.depth is not None else known.deepest(event.adjacent)
                known.add([Component(name, event.role, depth, event.clock)])
    births = {event.clock.generation: event.clock for event in log}
    return log, [replace(one, born=births.get(one.born.generation, one.born)) for one in known.values()]


class Known(dict[tuple[str, int], Component]):
    """Components by name and the number of the event in which they were born: a name may come back."""

    def add(self, components: Iterable[Component]) -> None:
        """Take in some, in the place of the same as they were earlier."""
        self.update({(component.name, component.born.generation): component for component in components})

    def has(self, name: str, generation: int) -> bool:
        """Whether one of this birth is, or stands in, what has a name."""
        return any(born == generation and name in lineage(other) for other, born in self)

    def deepest(self, names: Collection[str]) -> int:
        """The largest depth of those with these names, 0 for none."""
        return max((component.depth for component in self.values() if component.name in names), default=0)


def _grow(module: Growable, triggers: Sequence[ClockTrigger], steps: int, steps_per_epoch: int) -> None:
    """Grow at the moments at which a run would; what is due when it ends is left out."""
    steps_first = sorted(triggers, key=lambda trigger: trigger.unit == "epoch")
    for step in range(1, steps):
        before, after = (Clock(time, time // steps_per_epoch) for time in (step - 1, step))
        for trigger in steps_first:
            for _ in range(trigger.due(before.count(trigger.unit), after.count(trigger.unit))):
                with kept_rng(), one_growth(module, trigger.request(module), after):
                    pass
