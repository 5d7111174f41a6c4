"""Measure how much step time and memory freezing saves: first k of 12 blocks frozen, for a CNN, an MLP, a transformer.

Each contender trains in its own Trainer. The tables show its saving, 1 - t_k / t_0, as a share of the ideal saving. t_k
is its step time; t_0 is the step time without frozen blocks. For ProgressiveFreeze and "lr 0", t_0 is measured with our
callback in the Trainer ("idle"), for the others without callback. So the difference of the first two columns is the
cost of our callback itself.

- ideal: the first k blocks run under `torch.no_grad()` with norms in eval mode, only the others are in the optimizer
- ProgressiveFreeze: all blocks are in the optimizer, and the callback freezes the first k blocks
- BackboneFinetuning: Lightning's callback in its frozen phase; the first k blocks are not in the optimizer yet
- lr 0: the phases of ProgressiveFreeze, but only as learning rates

Other programs may load the machine, so the Trainers take turns step by step, in reverse order in every second turn.
Times are CPU times on one thread. Each time is compared with t_0 of the same turn; the table shows the median ratio.

    python examples/benchmarks/freezing.py
"""

import argparse
import logging
import math
import re
import warnings
from collections.abc import Sequence
from operator import truediv
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from turns import MEASURED_STEPS, WARM_UP_STEPS, Turns, fit

from structurenet_pl import ProgressiveFreeze

BLOCKS = 12
FROZEN = (0, 3, 6, 9, 11)
CONTENDERS = ("ideal", "ProgressiveFreeze", "BackboneFinetuning", "lr 0")
BATCH_SHAPES = {"CNN": (16, 32, 16, 16), "MLP": (128, 512), "transformer": (4, 32, 128)}


def block(network: str, width: int) -> nn.Module:
    """Return one block; its output has the shape of its input."""
    if network == "CNN":
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    if network == "MLP":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)


class NoGrad(nn.Sequential):
    """Blocks without gradients, with norms in eval mode."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        for layer in self.modules():
            layer.train(not isinstance(layer, nn.BatchNorm2d))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Net(LightningModule):
    """A backbone of the first k blocks, the remaining blocks, and a head."""

    def __init__(self, network: str, shape: Sequence[int], k: int, contender: str) -> None:
        super().__init__()
        width = shape[-1] if network == "transformer" else shape[1]
        blocks = [block(network, width) for _ in range(BLOCKS)]
        self.backbone = NoGrad(*blocks[:k]) if contender == "ideal" else nn.Sequential(*blocks[:k])
        self.rest = nn.Sequential(*blocks[k:])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 10))
        self.optimized = [self.rest, self.head] if contender in ("ideal", "BackboneFinetuning") else [self]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.rest(self.backbone(x))), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([tensor for part in self.optimized for tensor in part.parameters()], lr=1e-4)


def callbacks_of(contender: str, k: int) -> list[Callback]:
    if contender == "BackboneFinetuning":
        return [BackboneFinetuning(unfreeze_backbone_at_epoch=1)]
    if contender not in ("ProgressiveFreeze", "lr 0", "idle"):
        return []
    freeze = ProgressiveFreeze([("frozen", 0, 0.0, 1.0, 0 if contender == "idle" else k)])
    freeze.freezes = contender != "lr 0"  # without it, factor 0 only sets the lr to 0
    return [freeze]


def step_times(network: str, shape: Sequence[int], k: int) -> dict[str, list[float]]:
    """Return milliseconds per step, by contender, and without frozen blocks ("plain" and "idle")."""
    turns = {contender: Turns() for contender in ("plain", "idle", *CONTENDERS)}
    for contender, turn in turns.items():
        net = Net(network, shape, k, contender)
        turn.run(net, shape, WARM_UP_STEPS + MEASURED_STEPS + 1, [*callbacks_of(contender, k), turn])
    for number in range(WARM_UP_STEPS + MEASURED_STEPS + 1):
        for turn in list(turns.values())[:: 1 if number % 2 else -1]:
            turn.step()
    return {contender: turn.times[WARM_UP_STEPS + 1 :] for contender, turn in turns.items()}


def time_table(shapes: dict[str, Sequence[int]], rounds: int) -> Table:
    table = Table(
        title=f"CPU time of a training step with the first k of {BLOCKS} blocks frozen",
        caption="idle: nothing frozen, but our callback in the Trainer\nshare: saving as a share of the ideal saving",
        box=SIMPLE,
    )
    headings = ["k", "nothing\nfrozen\nms", "idle\nms", "ideal\nms", "saves"]
    for contender in CONTENDERS[1:]:
        headings += [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", contender) + "\nms", "share"]
    table.add_column("network", no_wrap=True, vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for network, shape in shapes.items():
        for k in track(FROZEN, network, console=Console(stderr=True), transient=True):
            by_round = [step_times(network, shape, k) for _ in range(rounds)]
            times = {name: [step for times in by_round for step in times[name]] for name in by_round[0]}
            ms = {contender: f"{median(steps):.1f}" for contender, steps in times.items()}
            start = {"ProgressiveFreeze": times["idle"], "lr 0": times["idle"]}
            saved = {
                contender: 1 - median(map(truediv, steps, start.get(contender, times["plain"])))
                for contender, steps in times.items()
            }
            row = [network, str(k), ms["plain"], ms["idle"], ms["ideal"], f"{saved['ideal']:.0%}" if k else ""]
            for contender in CONTENDERS[1:]:
                row += [ms[contender], f"{saved[contender] / saved['ideal']:.0%}" if k and saved["ideal"] else ""]
            table.add_row(*row)
        table.add_section()
    return table


class Memory(Callback):
    """Record bytes of gradients, optimizer state, and tensors kept for the backward pass, for each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._kept: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._hooks.__exit__(None, None, None)
        gradients = [tensor.grad for tensor in pl_module.parameters() if tensor.grad is not None]
        state = [value for values in trainer.optimizers[0].state.values() for value in values.values()]
        weights = {tensor.untyped_storage().data_ptr() for tensor in pl_module.parameters()}
        kept = sum(size for address, size in self._kept.items() if address not in weights)
        self.steps.append((sum(tensor.nbytes for tensor in gradients), sum(tensor.nbytes for tensor in state), kept))

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor


def memory_table(shapes: dict[str, Sequence[int]], k: int) -> Table:
    table = Table("network", "", title=f"Memory of a training step in MiB, k = {k}", box=SIMPLE)
    for heading in ("gradients", "optimizer state", "kept for backward", "sum"):
        table.add_column(heading, justify="right")
    phases = [("all", 0, 1.0, 1.0, 0), ("frozen", 3, 0.0, 1.0, k)]  # freezes after the third step
    for network, shape in shapes.items():
        rows = {}
        for contender, callbacks in {
            "frozen": [ProgressiveFreeze(phases, unit="step")],
            "frozen, release_state": [ProgressiveFreeze(phases, unit="step", release_state=True)],
            "ideal": [],
        }.items():
            memory = Memory()
            fit(Net(network, shape, k, contender), shape, 5, [*callbacks, memory])
            rows = {"nothing frozen": memory.steps[1], **rows, contender: memory.steps[-1]}
        for name, sizes in rows.items():
            table.add_row(network, name, *(f"{size / 2**20:.1f}" for size in (*sizes, sum(sizes))))
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=4, help=f"fits of each contender, {MEASURED_STEPS} steps each (default 4)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="use tiny networks, to see that the script runs; the times are noise"
    )
    args = parser.parse_args()

    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the data are random numbers in memory
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6 calls an API that torch 2.13 deprecates
    warnings.filterwarnings("ignore", message=".*has changed no learning rate.*")  # k = 0
    warnings.filterwarnings(
        "ignore", message=".*in eval mode at the start of training.*"
    )  # the norms of the ideal contender
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    shapes = {name: [min(size, 8) for size in shape] if args.tiny else shape for name, shape in BATCH_SHAPES.items()}
    console = Console(width=max(Console().width, 120))
    console.print(time_table(shapes, args.rounds))
    console.print(memory_table(shapes, k=9))
    if args.tiny:
        console.print("With --tiny the times are noise, and so are the shares: run without it to measure.")


if __name__ == "__main__":
    main()
