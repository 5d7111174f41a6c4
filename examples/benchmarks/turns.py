"""Trainers that take turns step by step, so that a busy machine slows all of them alike."""

import time
from collections.abc import Sequence
from threading import Semaphore, Thread
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

WARM_UP_STEPS, MEASURED_STEPS = 3, 10  # in each fit


def fit(net: LightningModule, shape: Sequence[int], steps: int, callbacks: list[Callback]) -> None:
    """Train on random data."""
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
    """Wait for a turn before each batch, and measure the time from there to the next batch."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._start = 0.0
        self._mine, self._done = Semaphore(0), Semaphore(0)

    def run(self, *arguments: Any) -> None:
        """Start a fit in its own thread, and return when it reaches the first batch."""
        Thread(target=self._fit, args=arguments, daemon=True).start()
        self._done.acquire()

    def step(self) -> None:
        """Train one batch, and return before the next batch starts."""
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
            self._done.release(WARM_UP_STEPS + MEASURED_STEPS + 2)  # end all waiting, also after an error
