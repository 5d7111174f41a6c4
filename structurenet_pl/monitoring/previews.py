"""The strata of a run that has not been trained: from callbacks and growth alone."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from structurenet_pl.engine.package_callbacks import AsksForGrowth, PackageCallback
from structurenet_pl.learning_rates.factors import Factor, Factors, product
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import Callback, rank_zero_warn
from structurenet_pl.monitoring.lr_history import LRHistory, mark
from structurenet_pl.monitoring.rehearsal import ClockTrigger, Log, dated, rehearse
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, check_count, lineage, titles
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.role_patterns import merge_patterns


def preview(
    callbacks: Iterable[Callback],
    growth_log: Iterable[GrowthEvent] = (),
    module: nn.Module | None = None,
    epochs: int = 60,
    steps_per_epoch: int | None = None,
    base_lr: float | Callable[[int], float] = 1.0,
) -> LRHistory:
    """What the learning rates of a run would be, without training.

    They are those that the run would have, to the last bit, but for what only training can tell: factors that go by
    gradients or densities count as 1, and what grows by a metric does not grow. A warning names them.

    Args:
        callbacks: Those that the Trainer would get. Factors, ``Components`` and ``GrowEvery`` have a part in it.
        growth_log: When the network grows, and what is born. Without it a copy of the module grows: as the module has
            in a run that is over, or else as each ``GrowEvery`` says.
        module: What would be trained. Without it one component with the role ``scaffold`` stands for the founding
            network.
        epochs: How many there would be.
        steps_per_epoch: Optimizer steps in an epoch; None: as in the growth log, 1 if that does not tell.
        base_lr: What optimizer and scheduler alone would give: a number, or a function of the step.

    Returns:
        A row for each step, to be given to :func:`~structurenet_pl.plot_strata`.

    Raises:
        ValueError: If ``epochs`` or ``steps_per_epoch`` is no positive whole number.
        RuntimeError: If the module cannot grow as the growth log says.

    Example:
        >>> from structurenet_pl import Clock, GrowthEvent, SedimentaryDecay, Warmup, preview
        >>> log = [GrowthEvent("add_patch", {}, Clock(epoch=2), born=("patches.0",), role="patch")]
        >>> strata = preview([Warmup(2), SedimentaryDecay([("active", 0, 1.0), ("old", 3, 0.1)])], log, epochs=5)
        >>> strata.components
        ('founding network', 'patches.0')
        >>> strata.lrs.tolist()
        [[1.0, 1.0, 1.0, 0.1, 0.1], [nan, nan, 0.25, 0.5, 0.5]]
    """
    callbacks = list(callbacks)
    log = tuple(growth_log or getattr(module, "growth_log", ()))
    if steps_per_epoch is None:
        clocks = [event.clock for event in log if event.clock.step and event.clock.epoch]
        steps_per_epoch = min((clock.step // clock.epoch for clock in clocks), default=1)
    check_count("epochs", epochs)
    check_count("steps_per_epoch", steps_per_epoch)

    planned = any(event.clock.step or event.clock.epoch for event in log)  # else it grew before the run
    triggers = [] if planned else [callback for callback in callbacks if isinstance(callback, AsksForGrowth)]
    clockwork = [one for one in triggers if isinstance(one, ClockTrigger) and isinstance(module, Growable)]
    factors = [callback for callback in callbacks if isinstance(callback, Factor)]
    foreseen = [one for one in factors if not one.needs_gradients and one.basis != "density"]
    if left_out := [one for one in factors if one not in foreseen] + [one for one in triggers if one not in clockwork]:
        rank_zero_warn(
            f"the preview is without {', '.join(type(one).__name__ for one in left_out)}: only training can tell what "
            "goes by gradients, densities or metrics, and GrowEvery needs preview(module=...)"
        )

    patterns = merge_patterns(*(callback.patterns for callback in callbacks if isinstance(callback, PackageCallback)))
    log, known = rehearse(module, dated(log, steps_per_epoch), clockwork, patterns, epochs, steps_per_epoch)
    known.sort(key=lambda component: (component.born.generation, component.depth))
    products, frozen = _evaluate(foreseen, known, log, epochs, steps_per_epoch)
    steps = np.arange(epochs * steps_per_epoch)
    bases = np.array([base_lr(step) if callable(base_lr) else base_lr for step in steps.tolist()])
    lived = np.flatnonzero(np.isfinite(products).any(axis=1))
    return LRHistory(
        components=tuple(titles((known[row] for row in lived), log)),
        steps=steps,
        lrs=bases * products[lived],
        frozen=frozen[lived],
        events=tuple(mark(event) for event in log if 0 < event.clock.step < len(steps)),
        unit="optimizer step" if steps_per_epoch > 1 else "epoch",
    )


def _evaluate(
    factors: Sequence[Factor], known: Sequence[Component], log: Log, epochs: int, steps_per_epoch: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The product of the factors, and what they freeze, by component and step."""
    labelled = Factors(factors)
    products = np.full((len(known), epochs * steps_per_epoch), np.nan)
    frozen = np.zeros(products.shape, dtype=bool)
    generation = version = -1
    for step in range(epochs * steps_per_epoch):
        clock = Clock(step, step // steps_per_epoch, bisect_right(log, step, key=lambda event: event.clock.step))
        if clock.generation != generation:
            generation = clock.generation
            rows = [row for row, component in enumerate(known) if _is_there(component, log[:generation])]
            rows.sort(key=lambda row: known[row].depth)
            components = tuple(known[row] for row in rows)
            labelled.set_components(components, log[:generation])
        labelled.evaluate_at(clock, partial(Moment, log=log[:generation], components=components))
        if version != labelled.version:
            version = labelled.version
            columns = [vector[: len(rows)] for vector in labelled.vectors.values()]
            now = product(np.array(columns).T) if columns else np.ones(len(rows))
            resting = [component.name in labelled.frozen for component in components]
            if resting and all(resting):
                resting[-1] = False  # without any gradient, backward would raise
        products[rows, step] = now
        frozen[rows, step] = resting
    return products, frozen


def _is_there(component: Component, log: Log) -> bool:
    """Whether a component is there after the events of a log."""
    path, born = lineage(component.name), component.born.generation
    return born <= len(log) and not any(name in path for event in log[born:] for name in event.removed)
