"""A run that grows, says where it is, and goes on from its last checkpoint when it is started again; for test_killed.

python tests/support/killed_worker.py FOLDER
"""

import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import LRTrace, Net, fit, loader
from structurenet_pl import GrowEvery, GrowthResponder, LARSScaler, SedimentaryDecay, Warmup, growth, widen

EPOCHS, BATCHES = 12, 6
PAUSE = 0.03  # seconds before each batch


class Changing(Net):
    """Gets wider, gains parts and loses parts; it has dropout."""

    @growth()
    def widen(self, by: int = 3):
        first, _, _, second, _ = self.body
        widen(first, second, first.out_features + by, noise=0.01)

    @growth()
    def drop_patch(self):
        del self.patches[0]


class Progress(Callback):
    """Prints every step and every checkpoint right before it, and takes its time."""

    def __init__(self, pause):
        self.pause = pause

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        print("step", trainer.global_step, flush=True)
        time.sleep(self.pause)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["ballast"] = torch.zeros(1_000_000)  # so that writing takes long enough to be killed in the middle
        print("save", trainer.global_step, flush=True)


def train(folder, pause=0.0):
    """Start, or go on from the last checkpoint in the folder, and run to the end."""
    last = max(folder.glob("*.ckpt"), default=None)
    seed_everything(1 if last is None else time.time_ns() % 1000, verbose=False)
    module = Changing(
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS),
    )
    trace = LRTrace()
    callbacks = [
        GrowEvery("add_patch", 2, limit=3, arguments={"at": 1}),
        GrowEvery("widen", 3, limit=3),
        GrowEvery("drop_patch", 5, limit=2),
        Warmup(3),
        GrowthResponder(recovery=2),
        SedimentaryDecay([("active", 0, 1.0), ("sediment", 6, 0.5)]),
        LARSScaler(trust_coefficient=0.1, clip=1.0),
        trace,
        Progress(pause),
        ModelCheckpoint(folder, "{epoch:02}", save_top_k=-1, save_on_train_epoch_end=True),
    ]
    trainer = fit(module, callbacks, EPOCHS, last, loader(BATCHES), enable_checkpointing=True)
    (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
    return {
        "weights": dict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": config.scheduler.state_dict(),
        "lrs": [float(group["lr"]) for group in optimizer.param_groups],
        "rows": trace.rows,
        "log": module.growth_log,
        "components": dict(module.components),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    torch.save(train(folder, PAUSE), folder / "end.pt")
