"""What freezing saves: step time and memory of a 12-block CNN, MLP and transformer with the first k blocks frozen.

Each contender trains in a Trainer of its own. What is printed is its saving, 1 - t_k / t_0, as a share of what the
ideal saves. t_0 is a step of a Trainer in which nothing is frozen: with our callback in it for us ("idle"), without any
for the others, so what our callback costs by itself is the difference of the first two columns.

- ideal: the first k blocks under `torch.no_grad()` with norms in eval mode, only the others in the optimizer
- ProgressiveFreeze: everything in the optimizer, and the callback freezes the first k blocks
- BackboneFinetuning: Lightning's, in its frozen phase; the first k blocks are not in the optimizer yet
- lr 0: the phases of ProgressiveFreeze, but as learning rates only

The machine may be busy with other things, so the Trainers take turns at every step, in reverse order every other time.
Times are CPU times on one thread; each is compared with t_0 of the same turn, and the median ratio counts.

    python examples/benchmarks/freezing.py
"""

import argparse
import logging
import math
import re
import time
import warnings
from collections.abc import Sequence
from operator import truediv
from statistics import median
from threading import Semaphore, Thread
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader, TensorDataset

from structurenet_pl import ProgressiveFreeze

BLOCKS = 12
FROZEN = (0, 3, 6, 9, 11)
CONTENDERS = ("ideal", "ProgressiveFreeze", "BackboneFinetuning", "lr 0")
SHAPES = {"CNN": (16, 32, 16, 16), "MLP": (128, 512), "transformer": (4, 32, 128)}  # of a batch
WARM_UP, STEPS = 3, 10  # of a fit


def block(network: str, width: int) -> nn.Module:
    """One of the twelve; it changes no shape."""
    if network == "CNN":
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    if network == "MLP":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)


class NoGrad(nn.Sequential):
    """Blocks that autograd does not see, norms in eval mode."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        for layer in self.modules():
            layer.train(not isinstance(layer, nn.BatchNorm2d))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Net(LightningModule):
    """The first k blocks as a backbone, the rest of the twelve, and a head."""

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
    freeze.freezes = contender != "lr 0"  # else its factors are all that is left of it
    return [freeze]


def fit(net: Net, shape: Sequence[int], steps: int, callbacks: list[Callback]) -> None:
    """Train on random numbers."""
    data = TensorDataset(torch.randn(steps, *shape), torch.randint(10, (steps, shape[0])))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, DataLoader(data, batch_size=None))


class Turns(Callback):
    """Waits for its turn before each batch, and times all that the Trainer does until the next."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._start = 0.0
        self._mine, self._done = Semaphore(0), Semaphore(0)

    def run(self, *arguments: Any) -> None:
        """Fit in a thread of its own, up to the first batch."""
        Thread(target=self._fit, args=arguments, daemon=True).start()
        self._done.acquire()

    def step(self) -> None:
        """Go on to the next batch."""
        self._mine.release()
        self._done.acquire()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.times.append(1000 * (time.process_time() - self._start))
        self._done.release()
        self._mine.acquire()
        self._start = time.process_time()

    def _fit(self, *arguments: Any) -> None:
        torch.set_num_threads(1)
        try:
            fit(*arguments)
        finally:
            self._done.release(WARM_UP + STEPS + 2)  # nobody need wait any more, after an error neither


def step_times(network: str, shape: Sequence[int], k: int) -> dict[str, list[float]]:
    """Milliseconds of each contender, and with nothing frozen ("plain" and "idle"), step by step."""
    turns = {contender: Turns() for contender in ("plain", "idle", *CONTENDERS)}
    for contender, turn in turns.items():
        net = Net(network, shape, k, contender)
        turn.run(net, shape, WARM_UP + STEPS + 1, [*callbacks_of(contender, k), turn])
    for number in range(WARM_UP + STEPS + 1):
        for turn in list(turns.values())[:: 1 if number % 2 else -1]:
            turn.step()
    return {contender: turn.times[WARM_UP + 1 :] for contender, turn in turns.items()}


def time_table(shapes: dict[str, Sequence[int]], rounds: int) -> Table:
    table = Table(
        title=f"CPU time of a training step with the first k of {BLOCKS} blocks frozen",
        caption="idle: nothing frozen, but our callback in the Trainer\nshare: what is saved, of what the ideal saves",
        box=SIMPLE,
    )
    headings = ["k", "nothing\nfrozen\nms", "idle\nms", "ideal\nms", "saves"]
    for contender in CONTENDERS[1:]:
        headings += [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", contender) + "\nms", "share"]
    table.add_column("network", no_wrap=True, vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for network, shape in shapes.items():
        for k in FROZEN:
            found = [step_times(network, shape, k) for _ in range(rounds)]
            times = {one: [step for times in found for step in times[one]] for one in found[0]}
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
    """Bytes of gradients, optimizer state, and what the forward pass keeps for the backward pass, in each step."""

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
    phases = [("all", 0, 1.0, 1.0, 0), ("frozen", 3, 0.0, 1.0, k)]  # it freezes when the third step is over
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
    parser.add_argument("--rounds", type=int, default=4, help=f"fits of each contender, {STEPS} steps each (default 4)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, only to see that it runs")
    args = parser.parse_args()

    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # nothing has to be loaded
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # between lightning 2.6 and torch 2.13
    warnings.filterwarnings("ignore", message=".*has changed no learning rate.*")  # k = 0
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the ideal's norms
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    shapes = {name: [min(size, 8) for size in shape] if args.tiny else shape for name, shape in SHAPES.items()}
    console = Console(width=max(Console().width, 120))
    console.print(time_table(shapes, args.rounds))
    console.print(memory_table(shapes, k=9))


if __name__ == "__main__":
    main()
