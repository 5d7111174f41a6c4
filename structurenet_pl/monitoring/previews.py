"""The public ``preview``: the learning rates of a run without training, from callbacks and growth alone."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn

from structurenet_pl.engine.package_callbacks import AsksForGrowth, PackageCallback
from structurenet_pl.learning_rates.factors import Factor
from structurenet_pl.lightning import Callback, rank_zero_info, rank_zero_warn
from structurenet_pl.monitoring.lr_history import LRHistory, growth_mark
from structurenet_pl.monitoring.simulated_growth import ClockTrigger, complete_clocks, simulate_growth
from structurenet_pl.monitoring.simulated_products import simulate_products, strata_of
from structurenet_pl.monitoring.simulated_work import NetworkSize, Saved, measure_network, saved_by_freezing
from structurenet_pl.structure.arguments import check_at_least, checks_arguments
from structurenet_pl.structure.events import GrowthEvent, cohort_title, titles
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
    example_input: Any = None,
) -> LRHistory:
    """The learning rates that a run would have, without training.

    They are equal to those of the run to the last bit, except for values that only training can give: factors that need
    gradients or densities count as 1, and growth that waits for a metric does not happen. A warning names these
    callbacks. A preview knows no optimizers: of several, a run counts the depths of each, a preview those of the whole
    module. Without a module, entries that widening adds to a component count as old as the component. For a factor that
    reads shapes, a module that has grown before the preview has had its shapes from the start.

    If a factor freezes, a line says what that saves: the share of the multiply-adds of the whole run, forward and
    backward, against the run without freezing. They are counted in a forward pass of a copy of the module after each
    growth, so they need the module as it is before the run, and an input for it. Without an input, the line says which
    share of the updates of single parameters does not happen, which may be far from the share of the work.

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
        example_input: An input for ``module.forward`` to count multiply-adds with: a tensor, a tuple of arguments, or a
            dict of keyword arguments; None: ``module.example_input_array``, if it has one. The size of the batch does
            not matter.

    Returns:
        The history with a column for each step, for ``plot_strata``. Its ``saved_work`` is the share that the line
        says, None if the multiply-adds are not known.

    Raises:
        ValueError: If ``epochs`` or ``steps_per_epoch`` is no positive whole number, or if the module does not run on
            the example input.
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
        by_clock = any(isinstance(callback, ClockTrigger) for callback in left_out)
        by_training = any(not isinstance(callback, ClockTrigger) for callback in left_out)
        reasons = ["only training can give gradients, densities and metrics."] * by_training
        reasons += ["Growth by the clock needs a module that grows, preview(module=...)."] * by_clock
        rank_zero_warn(
            f"the preview is without {', '.join(type(callback).__name__ for callback in left_out)}: {' '.join(reasons)}"
        )

    patterns = merge_patterns(*(callback.patterns for callback in callbacks if isinstance(callback, PackageCallback)))
    log = complete_clocks(log, steps_per_epoch)
    steps = np.arange(epochs * steps_per_epoch)
    freezes = any(factor.freezes for factor in known_factors)
    if example_input is None:
        example_input = getattr(module, "example_input_array", None)

    def measure(network: nn.Module) -> NetworkSize | None:
        return measure_network(network, patterns, example_input) if freezes else None

    growth = simulate_growth(module, log, simulated, patterns, len(steps), steps_per_epoch, measure)
    log, components = growth.log, growth.components
    components.sort(key=lambda component: (component.born.generation, component.depth))
    strata = strata_of(components, growth.entries)
    products, frozen = simulate_products(known_factors, growth, strata, len(steps), steps_per_epoch)
    saved = Saved(0.0, 0.0)
    if freezes:
        names = [components[stratum.component].name for stratum in strata]
        generations = np.searchsorted([event.clock.step for event in log], steps, side="right")
        saved = saved_by_freezing(names, frozen, generations, growth.sizes)
        rank_zero_info(_saved_text(saved, "1 epoch" if epochs == 1 else f"{epochs} epochs"))
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
        saved_work=saved.work,
    )


def _saved_text(saved: Saved, run: str) -> str:
    """What freezing saves, as precisely as it is known."""
    if saved.work is not None:
        return f"freezing saves {saved.work:.0%} of the multiply-adds of {run}"
    if saved.updates is not None:
        return (
            f"freezing skips {saved.updates:.0%} of the parameter updates of {run}; give preview an example_input to "
            "know how many multiply-adds that saves"
        )
    return (
        "give preview the module as it is before the run, and an example_input, to know how many multiply-adds "
        f"freezing saves in {run}"
    )
