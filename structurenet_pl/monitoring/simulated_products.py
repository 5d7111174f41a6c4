"""Learning rates without training: the products of the factors of all components that a run would ever have."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.learning_rates.factors import Factor, Factors, product
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.monitoring.simulated_growth import GenerationsByName, Log, SimulatedGrowth
from structurenet_pl.structure.cohorts import cohorts_of
from structurenet_pl.structure.events import Clock, Component, cohort_number, lineage


class Stratum(NamedTuple):
    """A row of a preview: a component by its number, or one of its cohorts by the number of its growth event."""

    component: int
    cohort: int | None


def strata_of(components: Sequence[Component], entries: Sequence[GenerationsByName]) -> list[Stratum]:
    """Each component, followed by the cohorts that it ever has."""
    strata = []
    for row, component in enumerate(components):
        # a removed component of the same name has older cohorts, which get no values here
        generations = {generation for of_name in entries for generation in of_name.get(component.name, ())}
        later = sorted(generation for generation in generations if generation > component.born.generation)
        strata += [Stratum(row, cohort) for cohort in (None, *later)]
    return strata


def simulate_products(
    factors: Sequence[Factor], growth: SimulatedGrowth, strata: Sequence[Stratum], steps: int, steps_per_epoch: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The product of the factors, and whether they freeze, by stratum and step; nan without the stratum."""
    log, components = growth.log, growth.components
    labelled = Factors(factors)
    products = np.full((len(strata), steps), np.nan)
    frozen = np.zeros(products.shape, dtype=bool)
    by_cohort: set[int] = set()  # numbers of the components whose cohorts have differed
    generation = version = -1
    for step in range(steps):
        clock = Clock(step, step // steps_per_epoch, bisect_right(log, step, key=lambda event: event.clock.step))
        if grown := clock.generation != generation:
            generation = clock.generation
            numbers = [number for number, component in enumerate(components) if _exists(component, log[:generation])]
            numbers.sort(key=lambda number: components[number].depth)
            shapes = growth.shapes[generation] if generation < len(growth.shapes) else {}
            present = tuple(
                replace(component, shapes=shapes.get(component.name, component.shapes))
                for component in (components[number] for number in numbers)
            )
            cohorts = _cohorts(present, growth.entries, log[:generation])
            labelled.set_components(present, log[:generation], cohorts)
            size = len(present) + sum(map(len, cohorts.values()))
        labelled.evaluate_at(clock, partial(Moment, log=log[:generation], components=present))
        if version != labelled.version:
            version = labelled.version
            vectors = [vector[:-1] for vector in labelled.vectors.values()]  # without the 1 at the end
            product_now = product(np.array(vectors).T) if vectors else np.ones(size)
            differing = {
                numbers[labelled.rows[name]]
                for name, rows in labelled.cohort_rows.items()
                if len(set(product_now[list(rows.values())].tolist())) > 1
            }
            if grown or not differing <= by_cohort:
                by_cohort |= differing
                lines = _lines(strata, numbers, present, labelled, by_cohort)
            frozen_now = [component.name in labelled.frozen for component in present]
            if frozen_now and all(frozen_now):
                frozen_now[-1] = False  # as a run does: without any trainable tensor, backward would raise
        products[lines.rows, step] = product_now[lines.entries]
        frozen[lines.rows, step] = np.array(frozen_now, dtype=bool)[lines.components]
    return products, frozen


class _Lines(NamedTuple):
    """The strata of one moment: rows of the preview, entries in the vectors of factors, places of the components."""

    rows: list[int]
    entries: list[int]
    components: list[int]


def _lines(
    strata: Sequence[Stratum],
    numbers: Sequence[int],
    present: Sequence[Component],
    labelled: Factors,
    by_cohort: Collection[int],
) -> _Lines:
    """The strata of the present components: each component, or each of its cohorts if these have differed."""
    row_of = {stratum: row for row, stratum in enumerate(strata)}
    lines = _Lines([], [], [])
    for place, (number, component) in enumerate(zip(numbers, present, strict=True)):
        born = component.born.generation
        entry_of = labelled.cohort_rows.get(component.name, {born: place})
        if number not in by_cohort:
            entry_of = {born: next(iter(entry_of.values()))}  # all cohorts have one product
        lines.rows.extend(row_of[Stratum(number, cohort_number(component, one))] for one in entry_of)
        lines.entries.extend(entry_of.values())
        lines.components.extend([place] * len(entry_of))
    return lines


def _cohorts(
    components: Sequence[Component], entries: Sequence[GenerationsByName], log: Log
) -> dict[str, tuple[Component, ...]]:
    """The cohorts of components after the events of a log, where these are known."""
    generations = entries[len(log)] if len(log) < len(entries) else {}
    events = {event.clock.generation: event for event in log}
    return {
        component.name: cohorts_of(component, generations[component.name], events)
        for component in components
        if component.name in generations
    }


def _exists(component: Component, log: Log) -> bool:
    """Whether a component exists after the events of a log."""
    path, born = lineage(component.name), component.born.generation
    return born <= len(log) and not any(name in path for event in log[born:] for name in event.removed)
