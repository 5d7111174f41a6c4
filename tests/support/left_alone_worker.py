"""One of two processes under DDP, of which rank 1 is gone at some moment, for test_growth_distributed.

Started as ``left_alone_worker.py moment folder`` with the rank in the environment.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from time import monotonic

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from ddp_worker import Grown, batches
from helpers import fit
from structurenet_pl import GrowEvery, LRFactor, ProgressiveFreeze, growth

RANK = int(os.environ.get("LOCAL_RANK", "0"))
GONE, TIMEOUT = 9, 20  # seconds


def leave():
    if RANK == 1:
        os._exit(GONE)


class Leaves(Grown):
    @growth(role="patch")
    def add_and_leave(self):
        leave()
        self.patches.append(torch.nn.Linear(8, 8))


class Reacts(Callback):
    def on_growth(self, trainer, pl_module, event):
        leave()


class Alone(LRFactor):
    """One rank freezes, the other does not."""

    freezes = True

    def factor(self, component, now):
        return 0.0 if RANK == 1 and component.name == "body.0" and now.clock.epoch == 2 else 1.0


class WhenFrozen(ProgressiveFreeze):
    """Gone at the moment at which all freeze."""

    def factor(self, component, now):
        if now.clock.epoch == 2:
            leave()
        return super().factor(component, now)


class WhenSaved(Callback):
    def __init__(self, method):
        self.method = method

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            setattr(pl_module, self.method, lambda *args, **kwargs: leave() or {})


GROW = GrowEvery("add_neck", 2, limit=1)
MOMENTS = {
    "growth": lambda: [GrowEvery("add_and_leave", 2, limit=1)],
    "on_growth": lambda: [GROW, Reacts()],
    "freeze": lambda: [WhenFrozen([("all", 0, 1.0, 1.0, 0), ("late", 2, 0.5, 1.0, 0)])],
    "checkpoint": lambda: [WhenSaved("state_dict")],
    "file": lambda: [WhenSaved("on_save_checkpoint")],
    "freezes alone": lambda: [Alone()],
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    moment, folder = sys.argv[1], Path(sys.argv[2])
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=TIMEOUT))
    torch.manual_seed(1)
    error, start = None, monotonic()
    try:
        save = ModelCheckpoint(folder / "saved", "{epoch}", save_top_k=-1)
        fit(
            Leaves(),
            [*MOMENTS[moment](), save],
            data=batches(RANK, 2),
            strategy=strategy,
            devices=2,
            use_distributed_sampler=False,
            enable_checkpointing=True,
        )
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    torch.save({"error": error, "seconds": monotonic() - start}, folder / f"{moment}-{RANK}.pt")
    os._exit(0)  # Lightning would wait for the other
