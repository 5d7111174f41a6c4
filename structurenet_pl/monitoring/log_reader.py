"""The history of a run in a file beside the logs that its loggers write."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.monitoring.run_record import MAX_BYTES, RunRecord
from structurenet_pl.structure.events import Clock, Component, GrowthEvent, dump_log, load_log

FILE = "strata.pt"


def save(
    loggers: Iterable[Any], history: RunRecord, components: Iterable[Component], log: Iterable[GrowthEvent]
) -> None:
    """Write the history of a run beside its logs, in place of an earlier one.

    Args:
        loggers: Those of the run; some have a ``log_dir`` on this machine.
        history: The learning rates at all steps.
        components: The components of the network now, in order of depth.
        log: The growth log.
    """
    content: dict[str, Any] = {
        "history": history.state_dict(MAX_BYTES),
        "components": [[component.name, component.born.generation] for component in components],
        "log": dump_log(log),
    }
    folders = {getattr(logger, "log_dir", None) for logger in loggers}
    for folder in [Path(folder) for folder in folders if isinstance(folder, str) and "://" not in folder]:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{FILE}.{os.getpid()}"
        torch.save(content, unfinished)
        unfinished.replace(folder / FILE)  # at once, so that nobody reads half of it


def read_strata(log_dir: str | Path) -> LRHistory:
    """Read what :class:`~structurenet_pl.StrataMonitor` has written beside a log.

    Args:
        log_dir: Directory of one run.

    Raises:
        ValueError: If there is no such directory, or it holds no learning rates of components.
    """
    folder = Path(log_dir)
    if not folder.is_dir():
        raise ValueError(f"{log_dir} is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger")
    if not (folder / FILE).exists():
        raise ValueError(
            f"{log_dir} holds no {FILE}, which StrataMonitor writes there: train with it and a logger with a log_dir, "
            "such as TensorBoardLogger or CSVLogger"
        )
    content = torch.load(folder / FILE, weights_only=True)
    history = RunRecord()
    history.load_state_dict(content["history"])
    components = [Component(name, born=Clock(generation=generation)) for name, generation in content["components"]]
    return history.strata(components, load_log(content["log"]))
