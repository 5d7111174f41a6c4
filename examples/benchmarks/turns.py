"""Trainers that take turns step by step, so that a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Semaphore, Thread
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

WARM_UP_STEPS = 3  # in each fit


@dataclass(frozen=True)
class Fit:
    """A fit on random data."""

    net: LightningModule
    callbacks: Sequence[Callback] = ()
    shape: Sequence[int] = (1, 1)  # of a batch
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the Trainer

    def run(self, steps: int, *callbacks: Callback) -> Trainer:
        """Train, with more callbacks."""
        data = TensorDataset(torch.randn(steps, *self.shape), torch.randint(10, (steps, self.shape[0])))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[*self.callbacks, *callbacks],
            **{**quiet, "enable_model_summary": False, **self.settings},
        )
        trainer.fit(self.net, DataLoader(data, batch_size=None))
        return trainer


def in_fit(fit: Fit, hook: str, measure: Callable[[Trainer], Any]) -> Any:
    """The result of a function that is called in a hook of a fit, at the third batch."""
    found = []

    def call(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= 2 and not found:
            found.append(measure(trainer))

    callback = Callback()
    setattr(callback, hook, call)
    fit.run(4, callback)
    return found[0]


class Turn(Callback):
    """Wait for a turn before each stretch of batches, and measure the CPU time from each batch to the next.

    Args:
        steps: Number of batches.
        stretch: Number of batches in a turn. In a long turn caches are warm, as they are in a fit without turns.
    """

    def __init__(self, steps: int, stretch: int) -> None:
        self.times: list[float] = []
        self.error: BaseException | None = None
        self._steps, self._stretch, self._start = steps, stretch, 0.0
        self._mine, self._done = Semaphore(0), Semaphore(0)

    def begin(self, fit: Fit) -> None:
        """Start a fit in its own thread, and return when it reaches the first batch."""
        Thread(target=self._fit, args=[fit], daemon=True).start()
        self._done.acquire()

    def step(self) -> None:
        """Train one stretch of batches, and return before the next one starts."""
        self._mine.release()
        self._done.acquire()
        if self.error is not None:
            raise self.error

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for logger in trainer.loggers:
            logger.experiment.flush()  # TensorBoard writes in a thread, which must not work during another's turn
        self.times.append(time.process_time() - self._start)
        if batch_idx % self._stretch == 0:
            self._done.release()
            self._mine.acquire()
        self._start = time.process_time()

    def _fit(self, fit: Fit) -> None:
        torch.set_num_threads(1)  # it holds for one thread only
        try:
            fit.run(self._steps, self)
        except BaseException as error:
            self.error = error
        finally:
            self._done.release(self._steps + 2)  # end all waiting, also after an error


def take_turns(fits: Mapping[str, Fit], steps: int, stretch: int = 1) -> dict[str, list[float]]:
    """Seconds of CPU time of each step, by name of the fit; in every second turn the order is reversed."""
    warm_up = max(WARM_UP_STEPS, stretch)
    number_of_steps = warm_up + steps + 1
    turns = {name: Turn(number_of_steps, stretch) for name in fits}
    for name, turn in turns.items():
        turn.begin(fits[name])
    for number in range(-(-number_of_steps // stretch)):
        for turn in list(turns.values())[:: 1 if number % 2 else -1]:
            turn.step()
    return {name: turn.times[warm_up + 1 :] for name, turn in turns.items()}
