"""FreezeOut: what freezing layer by layer saves, and what it costs."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.nets import Kind, Net
from examples.evidence.training import accuracy, fit
from examples.recipes.freeze_out import FreezeOut
from structurenet_pl import ProgressiveFreeze
from structurenet_pl.engine.driver import Driver

BATCH, IMAGES = 64, 1024
EPOCHS, WIDTH = {"mlp": 8, "cnn": 16}, {"mlp": 256, "cnn": 16}
FEWER = 3 / 4
"""Share of the epochs in the baseline that saves work by stopping sooner: about the work that is left by freezing."""

LRS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)

ARMS: Mapping[str, Callable[[int], Callback]] = {
    "cosine": lambda epochs: _freeze_out(epochs, t_0=1),  # each depth ends with the run
    "freeze out": lambda epochs: _freeze_out(epochs, t_0=0.7),
    "freeze out, not scaled": lambda epochs: _freeze_out(epochs, t_0=0.7, scale_lr=False),
    "fewer epochs": lambda epochs: _freeze_out(epochs, t_0=1),
    "9": lambda epochs: ProgressiveFreeze(
        [("warm-up", 0, 1, 1, 1), ("refinement", epochs // 4, 0.01, 0.1, 2), ("final", 3 * epochs // 4, 0, 0.1, -1)]
    ),
}


def _freeze_out(epochs: int, **options: float) -> FreezeOut:
    return FreezeOut(epochs * (IMAGES // BATCH), **options)


class SavedWork(Callback):
    """Record the share of the multiply-adds of each step that freezing saves."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Sequence, batch_idx: int
    ) -> None:
        self.shares.append(Driver.of(trainer).frozen.work or 0.0)


class Deep(Net):
    """``Net`` with six layers before the head: in a shallow network there is little to freeze."""

    def __init__(self, kind: Kind, side: int, lr: float) -> None:
        super().__init__(kind, side, lr, width=WIDTH[kind])
        self.blocks.extend(nn.Sequential(self.layer(), nn.ReLU()) for _ in range(3))


def train(trial: Trial) -> Mapping[str, float]:
    """Train a network that may freeze, with Adam."""
    name, kind = trial.setting.split()
    data = split(name, trial.seed)
    net, saved = Deep(kind, data.side, trial.lr), SavedWork()
    epochs = round(EPOCHS[kind] * (FEWER if trial.arm == "fewer epochs" else 1))
    start = time.process_time()
    fit(net, data.train.first(IMAGES), epochs, [ARMS[trial.arm](epochs), saved], BATCH)
    seconds = time.process_time() - start
    return {
        "val": accuracy(net, data.val),
        "accuracy": accuracy(net, data.test),
        "work": epochs / EPOCHS[kind] * (1 - fmean(saved.shares)),
        "seconds": seconds,
    }


BLOCK = Block(
    question="The lr of each layer falls along a cosine of its own, and ends in a freeze, earlier near the input "
    "(FreezeOut, arXiv 1706.04983: 20 % of the time saved within 3 % of the error). Those without a search of "
    "their own run at the base lr that is best for one cosine over the whole run.",
    train=train,
    settings=("digits mlp", "digits cnn", "mnist cnn"),
    arms={name: Arm(LRS) if name in ("cosine", "freeze out") else Arm(lr_of="cosine") for name in ARMS},
    claims=(
        Claim("freezing saves 20 % of the multiply-adds", "work", "freeze out", "cosine", below=0.8, ratio=True),
        Claim("and 20 % of the CPU time", "seconds", "freeze out", "cosine", below=0.8, ratio=True),
        Claim("and costs less than .03 of accuracy", "accuracy", "freeze out", "cosine", above=-0.03),
        better("it is better than three quarters of the epochs", "freeze out", "fewer epochs"),
    ),
    measures={
        "accuracy": "test accuracy at the end",
        "work": "multiply-adds of the run, as a share of those of all epochs without freezing; counted",
        "seconds": "CPU time of the fit",
    },
    axes=("work", "accuracy"),
)
