"""The file ``strata.pt``: the records of a run, beside the logs of its loggers."""

import os
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.monitoring.metric_history import MetricHistory
from structurenet_pl.monitoring.metric_record import MetricRecord
from structurenet_pl.monitoring.run_record import MAX_BYTES, RunRecord
from structurenet_pl.structure.events import Clock, Component, dump_log, load_log

FILE_NAME = "strata.pt"
SAVE_INTERVAL = 30.0  # seconds between two saves at ends of epochs


class StrataFile:
    """Writes the records of a run to ``strata.pt`` in the ``log_dir`` of each logger.

    Args:
        record: The learning rates of the run.
        metrics: Its validations.
    """

    def __init__(self, record: RunRecord, metrics: MetricRecord) -> None:
        self._record = record
        self._metrics = metrics
        self._saved_at = 0.0

    def save_if_due(self, trainer: Trainer) -> None:
        """Write the file unless it was written less than ``SAVE_INTERVAL`` seconds ago."""
        if monotonic() - self._saved_at > SAVE_INTERVAL:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the file, in place of an earlier one."""
        self._saved_at = monotonic()
        if not trainer.is_global_zero or not self._record.end_step:
            return
        content: dict[str, Any] = {
            "history": self._record.state_dict(MAX_BYTES),
            "validations": self._metrics.state_dict(),
            "components": [[component.name, component.born.generation] for component in self._record.components],
            "log": dump_log(self._record.log),
        }
        folders = {getattr(logger, "log_dir", None) for logger in trainer.loggers}
        # "://": a logger may write to a bucket, which is no folder on this machine
        for folder in [Path(folder) for folder in folders if isinstance(folder, str) and "://" not in folder]:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"{FILE_NAME}.{os.getpid()}"
            torch.save(content, unfinished)
            unfinished.replace(folder / FILE_NAME)  # atomic: a reader never sees half a file


def read_strata_file(log_dir: str | Path) -> LRHistory:
    """Read the learning rates that ``StrataMonitor`` has written beside a log.

    Args:
        log_dir: Directory of one run.

    Raises:
        ValueError: If there is no such directory, or it holds no ``strata.pt``.
    """
    content, record = _content_of(log_dir), RunRecord()
    record.load_state_dict(content["history"])
    components = [Component(name, born=Clock(generation=generation)) for name, generation in content["components"]]
    record.set_structure(components, load_log(content["log"]), record.end_step)
    return record.to_history()


def read_validations(log_dir: str | Path) -> MetricHistory:
    """Read the validation metrics that ``StrataMonitor`` has written beside a log.

    Args:
        log_dir: Directory of one run.

    Raises:
        ValueError: If there is no such directory, or it holds no ``strata.pt``.
    """
    content, record = _content_of(log_dir), MetricRecord()
    record.load_state_dict(content["validations"])
    return record.to_history(load_log(content["log"]))


def _content_of(log_dir: str | Path) -> dict[str, Any]:
    folder = Path(log_dir)
    if not folder.is_dir():
        raise ValueError(f"{log_dir} is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger")
    if not (folder / FILE_NAME).exists():
        raise ValueError(
            f"{log_dir} holds no {FILE_NAME}, which StrataMonitor writes there: train with it and a logger with a "
            "log_dir, such as TensorBoardLogger or CSVLogger"
        )
    content: dict[str, Any] = torch.load(folder / FILE_NAME, weights_only=True)
    return content
