"""Run trials in several processes, and keep the result of each as soon as it is there."""

import os
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.evidence.blocks import BLOCKS
from examples.evidence.experiment import Block, Trial
from examples.evidence.results import Results
from examples.quiet import quiet


def prepare() -> None:
    """Prepare a worker process: one thread, none of Lightning's messages, and an end when its parent is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def run(block: str, trial: Trial) -> dict[str, float]:
    """Run one trial in a worker process."""
    seed_everything(trial.seed, verbose=False)
    return dict(BLOCKS[block].train(trial))


def run_all(blocks: dict[str, Block], folder: Path, jobs: int, deadline: float) -> None:
    """Run what is missing, and append each result to its file, until all is done or the time is over."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), prepare) as pool,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        for name, block in blocks.items():
            results = Results(folder / f"{name}.csv")
            bar = progress.add_task(name, total=None)
            while (trials := results.missing(block)) and time.monotonic() < deadline:  # twice: the search, the rest
                progress.update(bar, total=len(trials), completed=0)
                waiting, queue = {}, iter(trials)
                while True:
                    # few at a time, so that the end of the time ends the run
                    while len(waiting) < jobs + 1 and time.monotonic() < deadline and (trial := next(queue, None)):
                        waiting[pool.submit(run, name, trial)] = trial
                    if not waiting:
                        break
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        results.add(waiting.pop(future), future.result())
                        progress.advance(bar)
