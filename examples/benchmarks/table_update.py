"""Rows: one update of the table of learning rates, and one evaluation of each factor."""

from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from typing import Any

from lightning.pytorch import Trainer

from examples.benchmarks.harness import Row, Samples, alternate
from examples.benchmarks.nets import Still, factors
from examples.benchmarks.turns import Fit, in_fit
from structurenet_pl import (
    AgeDecay,
    Clock,
    Component,
    DepthDecay,
    GrowthEvent,
    GrowthResponder,
    LRFactor,
    Moment,
    ProgressiveFreeze,
    SedimentaryDecay,
    Warmup,
)
from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.evaluation import Evaluation

CALLS = 20


def bare_write(groups: list[dict[str, Any]]) -> Callable[[], None]:
    """Write ready lrs into groups."""
    lrs = [0.1] * len(groups)

    def write() -> None:
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = lr

    return write


def peers(layers: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Schedules of other packages that write the lrs of as many groups."""
    try:
        from pytorch_warmup import LinearWarmup
    except ImportError:
        return
    optimizer = Still(layers, groups=True).configure_optimizers()
    yield "pytorch_warmup", LinearWarmup(optimizer, warmup_period=10**6).dampen


def update(layers: int, rounds: int, moving: bool) -> Samples:
    """Times of an update in a fit, and of a bare write to the same number of groups."""

    def measure(trainer: Trainer) -> Samples:
        driver, steps = Driver.of(trainer), count(100)

        def one_factor_moves() -> None:
            driver.factors.evaluate_at(Clock(next(steps), trainer.current_epoch), driver._moment_at)
            for table in driver.tables.values():
                table.refresh()

        ours = one_factor_moves if moving else lambda: driver.refresh(trainer)
        # other groups, because the table would take a bare write to its own as a new base lr
        groups = Still(layers, groups=True).configure_optimizers().param_groups
        sides = {"ours": ours, "reference": bare_write(groups), **dict(peers(layers))}
        return alternate(sides, rounds, CALLS)

    return in_fit(Fit(Still(layers), factors(moving)), "on_train_batch_start", measure)


def evaluation(size: int, rounds: int) -> Samples:
    """Times of one evaluation of the slowest factor, each step anew, for components that are all born by an event."""
    born = [Clock(number, number // 10, number + 1) for number in range(size)]
    names = [f"body.{number}" for number in range(size)]
    log = tuple(
        GrowthEvent("add", {}, clock, born=(name,), adjacent=(before,))
        for name, before, clock in zip(names[1:], names, born[1:], strict=False)
    )
    components = tuple(
        Component(name, None, depth, clock) for depth, (name, clock) in enumerate(zip(names, born, strict=True))
    )
    every: list[LRFactor] = [
        GrowthResponder(recovery=100, unit="step"),
        Warmup(10**6, unit="step"),
        AgeDecay(0.9, per=100, unit="step"),
        SedimentaryDecay([("active", 0, 1.0), ("old", 100, 0.1)], unit="step"),
        ProgressiveFreeze([("all", 0, 1.0, 1.0, 0), ("late", 100, 0.0, 1.0, 0.5)], unit="step"),
        DepthDecay(),
    ]
    steps = count(size)

    def evaluate(factor: LRFactor) -> Callable[[], object]:
        values = Evaluation(factor, components, log).values
        return lambda: values(Moment(Clock(next(steps), size // 10, size), log, components))

    samples = alternate({type(factor).__name__: evaluate(factor) for factor in every}, rounds)
    slowest = max(samples, key=lambda name: median(samples[name]))
    return {"ours": samples.pop(slowest), **samples}


ROWS = [
    Row(
        "update-still",
        "table update over a bare write, nothing moved",
        "groups",
        {10: None, 100: 1.2, 1000: 1.2},
        lambda size, rounds: update(size, rounds, moving=False),
    ),
    Row(
        "update-moving",
        "the same, one factor moved",
        "groups",
        {10: None, 100: 6, 1000: 4},
        lambda size, rounds: update(size, rounds, moving=True),
    ),
    Row(
        "evaluation",
        "one evaluation of the slowest factor, in steps; the others as peers",
        "components and events",
        {50: 0.005, 150: 0.005, 500: 0.005},
        evaluation,
    ),
]
