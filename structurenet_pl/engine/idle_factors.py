"""Why a factor was 1 for every component in a whole run: the factor itself is asked about moments that never were.

A factor is a pure function, so it can be asked what it would give later, and what it would give after a growth.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from itertools import product

from structurenet_pl.learning_rates.factors import Factor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, as_list
from structurenet_pl.structure.role_patterns import wanted_and_left_out

DOUBLINGS = 20  # of the length of a run, until a factor that waits for time must have begun to act


class Idleness(Enum):
    """What would have given a factor an effect."""

    TOO_SHORT = "the run was too short for it: it differs from 1 later on"
    NOTHING_GREW = "nothing has grown, and it acts only after growth"
    NOTHING_TO_ACT_ON = (
        "its factor was 1 for every component at every step. Check roles, patterns, durations and values, or remove it"
    )


def why_idle(factor: Factor, end: Moment, optimizer_of: Mapping[str, int] = {}) -> Idleness:
    """What would have given a factor an effect that it did not have.

    Args:
        factor: A factor that was 1 for every component in the whole run.
        end: The moment after the run.
        optimizer_of: The number of its optimizer, by name of the component; empty for a single optimizer.

    Example:
        >>> from structurenet_pl import Moment, RoleLR, SedimentaryDecay, Warmup
        >>> end = Moment(Clock(step=40, epoch=10), components=(Component("body"),))
        >>> [why_idle(factor, end).name for factor in (SedimentaryDecay(), Warmup(), RoleLR())]
        ['TOO_SHORT', 'NOTHING_GREW', 'NOTHING_TO_ACT_ON']
    """
    known = {component.name for component in end.components}
    measured = end.density
    end = replace(end, density=lambda component: measured(component) if component.name in known else None)
    with suppress(Exception):  # a factor of the user may fail at what never was, and the run must not fail with it
        if _acts(factor, _later(end), optimizer_of):
            return Idleness.TOO_SHORT
        if not end.log and any(_acts(factor, _later(grown), optimizer_of) for grown in _grown(factor, end)):
            return Idleness.NOTHING_GREW
    return Idleness.NOTHING_TO_ACT_ON


def _acts(factor: Factor, moments: Iterable[Moment], optimizer_of: Mapping[str, int]) -> bool:
    """Whether the factor differs from 1 for any component at any of these moments."""
    numbers = set(optimizer_of.values()) or {0}
    for now, number in product(moments, numbers):
        # as in a fit, a factor sees the components of one optimizer; a newborn might join any
        of_optimizer = (one for one in now.components if optimizer_of.get(one.name, number) == number)
        acting = tuple(filter(factor.acts_on, of_optimizer))
        seen = replace(now, components=acting)
        if any(factor.checked(component, seen) != 1 for component in acting):
            return True
    return False


def _later(now: Moment) -> Iterable[Moment]:
    """This moment, and moments ever later without further growth."""
    steps = max(1, now.clock.step // max(1, now.clock.epoch))  # in an epoch
    for more in (0, *(2**power for power in range(DOUBLINGS))):
        clock = Clock(now.clock.step + more * steps, now.clock.epoch + more, now.clock.generation)
        yield replace(now, clock=clock)


def _grown(factor: Factor, now: Moment) -> Iterable[Moment]:
    """Moments right after a growth, for each role that the factor is limited to."""
    clock = replace(now.clock, generation=now.clock.generation + 1)
    neighbours = tuple(component.name for component in now.components)
    # a name pattern will do: it matches a role of the same text
    roles: list[str | None] = [*wanted_and_left_out(as_list(factor.where))[0]]
    for role in roles or [None]:
        event = GrowthEvent("grow", {}, clock, born=("newborn",), adjacent=neighbours, role=role)
        newborn = Component("newborn", role, max((component.depth for component in now.components), default=0), clock)
        yield replace(now, clock=clock, log=(*now.log, event), components=(*now.components, newborn))
