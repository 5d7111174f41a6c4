"""Measure what different rates within one tensor cost: an MLP and a CNN of twice their width, old entries slow.

Both networks are widened from half of their width, so half of the units of each layer are old. Two Trainers take turns
step by step: in one, old and new entries have equal rates, so nothing is scaled; in the other, old entries have a tenth
of the rate, and their updates are scaled after each step. Times are CPU times on one thread; the table shows medians of
the ratios of the same turn, for the optimizer step (fused AdamW) and for the whole training step.

    python examples/benchmarks/cohorts.py
"""

import argparse
import logging
import time
import warnings
from operator import truediv
from statistics import median

import torch
from lightning.pytorch import seed_everything
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from turns import MEASURED_STEPS, WARM_UP_STEPS, Turns

from structurenet_pl import GrowableModule, RoleLR, growth, widen

LAYERS = 12


class Net(GrowableModule):
    """Layers of one width that can be doubled."""

    def __init__(self, network: str, width: int) -> None:
        super().__init__()
        self.automatic_optimization = False  # to measure the optimizer step by itself
        self.optimizer_times: list[float] = []
        is_cnn = network == "CNN"
        first = nn.Conv2d(3, width, 3, padding=1) if is_cnn else nn.Linear(64, width)
        rest = [nn.Conv2d(width, width, 3, padding=1) if is_cnn else nn.Linear(width, width) for _ in range(LAYERS - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.head = nn.Linear(width, 10)

    @growth(role="new")
    def double(self) -> None:
        for layer, reader in zip(self.layers, [*self.layers[1:], self.head], strict=True):
            widen(layer, reader, 2 * layer.weight.shape[0])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        for layer in self.layers:
            x = torch.relu(layer(x))
        loss = nn.functional.cross_entropy(self.head(x.flatten(2).mean(2) if x.ndim == 4 else x), y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        start = time.process_time()
        optimizer.step()
        self.optimizer_times.append(1000 * (time.process_time() - start))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)


def measure(network: str, width: int, shape: tuple[int, ...]) -> tuple[list[float], ...]:
    """Milliseconds of the optimizer step and of the whole step, first with equal rates, then with slow old entries."""
    nets, turns = [], []
    for slow in (1.0, 0.1):
        net = Net(network, width)
        net.double()
        turn = Turns()
        # the old entries have no role, so "new" is at 1 / slow: the group's lr is the same in both
        turn.run(net, shape, WARM_UP_STEPS + MEASURED_STEPS + 1, [RoleLR({"new": 1 / slow}), turn])
        nets.append(net)
        turns.append(turn)
    for number in range(WARM_UP_STEPS + MEASURED_STEPS + 1):
        for turn in turns[:: 1 if number % 2 else -1]:
            turn.step()
    return (
        *(net.optimizer_times[WARM_UP_STEPS:] for net in nets),
        *(turn.times[WARM_UP_STEPS + 1 :] for turn in turns),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="fits of each kind; the medians are over their steps")
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    seed_everything(0, verbose=False)
    table = Table(title="CPU time with half of the units slow: optimizer step, then whole training step", box=SIMPLE)
    table.add_column("network")
    for heading in 2 * ("ms", "slow half\nms", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for network, width, shape in (("MLP", 256, (128, 64)), ("CNN", 16, (32, 3, 32, 32))):
        found: list[list[float]] = [[], [], [], []]
        for _ in track(range(rounds), network, console=Console(stderr=True), transient=True):
            for times, more in zip(found, measure(network, width, shape), strict=True):
                times += more
        step, slow_step, whole, slow_whole = found
        table.add_row(
            network,
            *(f"{median(times):.2f}" for times in (step, slow_step)),
            f"{median(map(truediv, slow_step, step)):.2f}",
            *(f"{median(times):.2f}" for times in (whole, slow_whole)),
            f"{median(map(truediv, slow_whole, whole)):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
