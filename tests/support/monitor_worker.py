"""One of two processes under DDP, for test_strata_monitor. Started as ``monitor_worker.py monitor folder``."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from ddp_worker import Grown, batches, by_epoch
from helpers import example_factors
from recorders import OwnLogger, UsedLRs
from structurenet_pl import StrataMonitor, explain
from structurenet_pl.learning_rates.norms import PartNorms, StepNorms


class Apart(Callback):
    """Norms that differ from process to process."""

    def on_train_end(self, trainer, pl_module):
        norms = PartNorms(1, 2)
        norms.update(0, [torch.full((4,), float(trainer.global_rank)), torch.ones(1)], [0, 1], [1, 1])
        self.found = norms.compute()[0].tolist()


def monitor(folder, rank):
    torch.manual_seed(1)
    used, foreign, apart, norms = UsedLRs(), OwnLogger(), Apart(), []
    read = StepNorms.read
    StepNorms.read = lambda step: norms.append(read(step)) or norms[-1]
    loggers = [TensorBoardLogger(folder, name=None, version="run"), foreign]
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=30)),
        max_epochs=4,
        use_distributed_sampler=False,
        callbacks=[*by_epoch(), *example_factors(), used, StrataMonitor(norms=True), apart],
        logger=loggers,
        log_every_n_steps=3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Grown(), batches(rank, 2), batches(rank, 2))
    rows = [row for row in foreign.rows if "lr/head" in row[1]]
    return {"used": used.lrs, "rows": rows, "norms": norms, "apart": apart.found, "explained": len(explain(trainer))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["LOCAL_RANK"])
    torch.save(monitor(folder, rank), folder / f"{part}-{rank}.pt")
