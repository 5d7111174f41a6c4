"""Rows: what is paid once: import, start of a fit, a growth log that is loaded."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from examples.benchmarks.harness import Row, Samples, alternate
from examples.benchmarks.nets import Chain, GrowingChain, Still, empty_callbacks, factors
from examples.benchmarks.turns import Fit

IMPORT = """
import lightning.pytorch, time
start = time.process_time()
import structurenet_pl
print(time.process_time() - start)
"""


class Started(Callback):
    """The CPU time at which the first step could begin."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at = time.process_time()


def start_of(net: LightningModule, callbacks: Sequence[Callback]) -> float:
    start, started = time.process_time(), Started()
    Fit(net, callbacks).run(1, started)
    return started.at - start


def starts(net: LightningModule, rounds: int) -> Samples:
    samples: Samples = {"floor": [], "ours": []}
    start_of(net, factors())  # warm up
    for _ in range(rounds):
        samples["floor"].append(start_of(net, list(empty_callbacks(8))))
        samples["ours"].append(start_of(net, factors()))
    return samples


def of_many_parameters(millions: int, rounds: int) -> Samples:
    """The start with ten large layers, of which a step trains one row only."""
    net = Still(10)
    net.body.extend(Chain(10, int((millions * 1e5) ** 0.5)).body)
    return starts(net, rounds)


def loads(events: int, rounds: int) -> Samples:
    """A network made and loaded with its log, and one that was made with all blocks."""
    grown, plain = GrowingChain(2), Chain(2 + events)
    for _ in range(events):
        grown.add()
    saved, plainly_saved = grown.state_dict(), plain.state_dict()
    sides = {
        "ours": lambda: GrowingChain(2).load_state_dict(saved),
        "reference": lambda: Chain(2 + events).load_state_dict(plainly_saved),
    }
    return alternate(sides, rounds)


def imports(_: int, rounds: int) -> Samples:
    """The package after Lightning, in a new process, compiled as an installed package is."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        runs = [
            subprocess.run([sys.executable, "-c", IMPORT], env=compiled, capture_output=True, text=True, check=True)
            for _ in range(1 + rounds)  # the first compiles
        ]
    return {"ours": [float(run.stdout) for run in runs[1:]]}


ROWS = [
    Row(
        "start",
        "added to the start of a fit by 8 factors",
        "components",
        {10: None, 100: None, 1000: 0.3},
        lambda size, rounds: starts(Still(size), rounds),
        rounds=5,
    ),
    Row(
        "start-large",
        "the same with large tensors, 20 components",
        "million parameters",
        {3: None, 30: None, 300: 0.1},
        of_many_parameters,
        rounds=3,
    ),
    Row("log", "loading a growth log over a plain load", "blocks", {50: None, 150: None, 500: 2}, loads, rounds=5),
    Row("import", "import on top of Lightning", "package", {1: 0.1}, imports, rounds=3),
]
