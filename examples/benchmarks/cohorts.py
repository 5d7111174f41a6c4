"""Rows: what different rates within one tensor cost.

Networks are widened from half of their width, so half of the units of each layer are old. On one side, old and new
entries have equal rates, so nothing is scaled; on ours, old entries have a tenth of the rate, and their updates are
scaled after each step.
"""

import time

import torch
from torch import Tensor, nn

from examples.benchmarks.harness import Row, Samples, by_round
from examples.benchmarks.turns import WARM_UP_STEPS, Fit, take_turns
from structurenet_pl import GrowableModule, RoleLR, growth, widen

LAYERS = 12
STEPS = 3  # in each round


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
        self.optimizer_times.append(time.process_time() - start)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)


def widened(network: str, width: int, rounds: int, whole: bool) -> Samples:
    """Times of the whole training step, or of the optimizer step alone."""
    fits = {}
    for name, slow in (("ours", 0.1), ("reference", 1.0)):
        net = Net(network, width // 2)
        net.double()
        # the old entries have no role, so "new" is at 1 / slow: the group's lr is the same in both
        fits[name] = Fit(net, [RoleLR({"new": 1 / slow})], (32, 3, 32, 32) if network == "CNN" else (128, 64))
    times = take_turns(fits, STEPS * rounds)
    if not whole:
        times = {name: fit.net.optimizer_times[WARM_UP_STEPS:] for name, fit in fits.items()}
    return {name: by_round(of_side, rounds) for name, of_side in times.items()}


ROWS = [
    Row(
        f"cohorts-{network}{'' if whole else '-optimizer'}",
        f"{'training' if whole else 'optimizer'} step with half of the units slow over all at one rate, {network}",
        "units in each layer",
        dict.fromkeys(widths),
        lambda width, rounds, network=network, whole=whole: widened(network, width, rounds, whole),
    )
    for network, widths in (("MLP", (64, 256, 512)), ("CNN", (16, 32)))
    for whole in (True, False)
]
