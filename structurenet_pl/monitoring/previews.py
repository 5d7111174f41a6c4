"""The public ``preview``: the learning rates of a run without training, from callbacks and growth alone."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from structurenet_pl.engine.package_callbacks import AsksForGrowth, PackageCallback
from structurenet_pl.learning_rates.factors import Factor, Factors, product
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import Callback, rank_zero_warn
from structurenet_pl.monitoring.lr_history import LRHistory, growth_mark
from structurenet_pl.monitoring.simulated_growth import (
    ClockTrigger,
    GenerationsByName,
    Log,
    complete_clocks,
    simulate_growth,
)
from structurenet_pl.structure.arguments import check_at_least, checks_arguments
from structurenet_pl.structure.cohorts import cohorts_of
from structurenet_pl.structure.events import (
    Clock,
    Component,
    GrowthEvent,
    cohort_number,
    cohort_title,
    lineage,
    titles,
)
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.role_patterns import merge_patterns


@checks_arguments
def preview(
    callbacks: Iterable[Callback],
    growth_log: Iterable[GrowthEvent] = (),
    module: nn.Module | None = None,
    epochs: int = 60,
    steps_per_epoch: int | None = None,
    base_lr: float | Callable[[int], float] = 1.0,
) -> LRHistory:
    """The learning rates that a run would have, without training.

    They are equal to those of the run to the last bit, except for values that only training can give: factors that need
    gradients or densities count as 1, and growth that waits for a metric does not happen. A warning names these
    callbacks. A preview knows no optimizers: of several, a run counts the depths of each, a preview those of the whole
    module. Without a module, entries that widening adds to a component count as old as the component.

    Args:
        callbacks: The callbacks that the Trainer would get. Factors, ``Components`` and ``GrowEvery`` have an effect.
        growth_log: The growth events of the run. Without them a copy of the module grows: by its own log if it comes
            from a finished run, else when each ``GrowEvery`` is due.
        module: The module that would be trained. Without it one component with the role ``scaffold`` stands for the
            founding network.
        epochs: Number of epochs.
        steps_per_epoch: Number of optimizer steps in an epoch; None: as in the growth log, 1 if the log does not show
            it.
        base_lr: The lr that optimizer and scheduler alone would give: a number, or a function of the step.

    Returns:
        The history with a column for each step, for ``plot_strata``.

    Raises:
        ValueError: If ``epochs`` or ``steps_per_epoch`` is no positive whole number.
        RuntimeError: If the module cannot grow as the growth log says.

    Example:
        >>> from structurenet_pl import Clock, GrowthEvent, SedimentaryDecay, Warmup, preview
        >>> log = [GrowthEvent("add_patch", {}, Clock(epoch=2), born=("patches.0",), role="patch")]
        >>> history = preview([Warmup(2), SedimentaryDecay([("active", 0, 1.0), ("old", 3, 0.1)])], log, epochs=5)
        >>> history.components
        ('founding network', 'patches.0')
        >>> history.lrs.tolist()
        [[1.0, 1.0, 1.0, 0.1, 0.1], [nan, nan, 0.25, 0.5, 0.5]]
    """
    callbacks = list(callbacks)
    log = tuple(growth_log or getattr(module, "growth_log", ()))
    if steps_per_epoch is None:
        clocks = [event.clock for event in log if event.clock.step and event.clock.epoch]
        steps_per_epoch = min((clock.step // clock.epoch for clock in clocks), default=1)
    check_at_least(1, {"epochs": epochs, "steps_per_epoch": steps_per_epoch})

    # a log without any time is that of a module that grew before the run, so the triggers still decide
    grows_by_log = any(event.clock.step or event.clock.epoch for event in log)
    triggers = [] if grows_by_log else [callback for callback in callbacks if isinstance(callback, AsksForGrowth)]
    simulated = [trigger for trigger in triggers if isinstance(trigger, ClockTrigger) and isinstance(module, Growable)]
    factors = [callback for callback in callbacks if isinstance(callback, Factor)]
    known_factors = [factor for factor in factors if not factor.needs_gradients and factor.basis != "density"]
    left_out = [factor for factor in factors if factor not in known_factors]
    left_out += [trigger for trigger in triggers if trigger not in simulated]
    if left_out:
        rank_zero_warn(
            f"the preview is without {', '.join(type(callback).__name__ for callback in left_out)}: only training can "
            "give gradients, densities and metrics, and GrowEvery needs preview(module=...)"
        )

    patterns = merge_patterns(*(callback.patterns for callback in callbacks if isinstance(callback, PackageCallback)))
    log = complete_clocks(log, steps_per_epoch)
    log, components, entries = simulate_growth(module, log, simulated, patterns, epochs, steps_per_epoch)
    components.sort(key=lambda component: (component.born.generation, component.depth))
    strata = _strata(components, entries)
    products, frozen = _evaluate(known_factors, components, strata, entries, log, epochs, steps_per_epoch)
    steps = np.arange(epochs * steps_per_epoch)
    bases = np.array([base_lr(step) if callable(base_lr) else base_lr for step in steps.tolist()])
    lived = np.flatnonzero(np.isfinite(products).any(axis=1))  # rows; the log may go on after the last epoch
    titled = titles((components[stratum.component] for stratum in strata), log)
    return LRHistory(
        components=tuple(cohort_title(titled[row], strata[row].cohort, log) for row in lived),
        steps=steps,
        lrs=bases * products[lived],
        frozen=frozen[lived],
        events=tuple(growth_mark(event) for event in log if 0 < event.clock.step < len(steps)),
        unit="optimizer step" if steps_per_epoch > 1 else "epoch",
    )


class _Stratum(NamedTuple):
    """A row of a preview: a component by its number, or one of its cohorts by the number of its growth event."""

    component: int
    cohort: int | None


def _strata(components: Sequence[Component], entries: Sequence[GenerationsByName]) -> list[_Stratum]:
    """Each component, followed by the cohorts that it ever has."""
    strata = []
    for row, component in enumerate(components):
        # a removed component of the same name has older cohorts, which get no values here
        generations = {generation for of_name in entries for generation in of_name.get(component.name, ())}
        later = sorted(generation for generation in generations if generation > component.born.generation)
        strata += [_Stratum(row, cohort) for cohort in (None, *later)]
    return strata


def _evaluate(
    factors: Sequence[Factor],
    components: Sequence[Component],
    strata: Sequence[_Stratum],
    entries: Sequence[GenerationsByName],
    log: Log,
    epochs: int,
    steps_per_epoch: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The product of the factors, and whether they freeze, by stratum and step; nan without the stratum."""
    labelled = Factors(factors)
    products = np.full((len(strata), epochs * steps_per_epoch), np.nan)
    frozen = np.zeros(products.shape, dtype=bool)
    by_cohort: set[int] = set()  # numbers of the components whose cohorts have differed
    generation = version = -1
    for step in range(epochs * steps_per_epoch):
        clock = Clock(step, step // steps_per_epoch, bisect_right(log, step, key=lambda event: event.clock.step))
        if grown := clock.generation != generation:
            generation = clock.generation
            numbers = [number for number, component in enumerate(components) if _exists(component, log[:generation])]
            numbers.sort(key=lambda number: components[number].depth)
            present = tuple(components[number] for number in numbers)
            cohorts = _cohorts(present, entries, log[:generation])
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
    strata: Sequence[_Stratum],
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
        lines.rows.extend(row_of[_Stratum(number, cohort_number(component, one))] for one in entry_of)
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
