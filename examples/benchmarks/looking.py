"""Rows: logs and tables."""

import tempfile
from io import StringIO
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from examples.benchmarks.harness import Row, Samples, alternate, by_round, less
from examples.benchmarks.nets import Still, factors
from examples.benchmarks.turns import Fit, in_fit, take_turns
from structurenet_pl import StrataMonitor, explain

STEPS = 10  # in each round


def monitor(layers: int, rounds: int, logged: bool) -> Samples:
    """What is added to a step: by StrataMonitor beside eight factors, by LearningRateMonitor beside none."""
    with tempfile.TemporaryDirectory() as folder:

        def to_tensorboard(name: str) -> dict[str, Any]:
            return {"logger": TensorBoardLogger(folder, name), "log_every_n_steps": 1}

        sides = {
            "factors": Fit(Still(layers), factors(moving=True), settings=to_tensorboard("factors")),
            "monitored": Fit(
                Still(layers),
                [*factors(moving=True), StrataMonitor(table=False)],
                settings=to_tensorboard("monitored") if logged else {},
            ),
            "plain": Fit(Still(layers, groups=True), settings=to_tensorboard("plain")),
            "peer": Fit(Still(layers, groups=True), [LearningRateMonitor("step")], settings=to_tensorboard("peer")),
        }
        times = {name: by_round(steps, rounds) for name, steps in take_turns(sides, STEPS * rounds).items()}
    return {"ours": less(times["monitored"], times["factors"]), "reference": less(times["peer"], times["plain"])}


def explained(layers: int, rounds: int) -> Samples:
    def measure(trainer: Trainer) -> Samples:
        return alternate({"ours": lambda: explain(trainer, Console(file=StringIO(), width=200))}, rounds)

    return in_fit(Fit(Still(layers), factors()), "on_train_batch_start", measure)


ROWS = [
    Row(
        "monitor",
        "StrataMonitor over LearningRateMonitor, both every step, in TensorBoard",
        "components",
        {10: 0.5, 100: 0.5, 1000: 0.5},
        lambda size, rounds: monitor(size, rounds, logged=True),
        rounds=5,
    ),
    Row(
        "monitor-only",
        "the same, StrataMonitor without a logger",
        "components",
        {10: 0.02, 100: 0.02, 1000: 0.02},
        lambda size, rounds: monitor(size, rounds, logged=False),
        rounds=5,
    ),
    Row("explain", "`explain`", "components", {10: None, 100: 0.010, 1000: 0.060}, explained),
]
