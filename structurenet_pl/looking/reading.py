"""The strata of a run, read back from what its loggers have written."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.looking.strata import SIGNS, Strata

GROWTH_TAG = "strata/growth/text_summary"
OURS = re.compile("(?:[^/]*-)?((?:lr|frozen)/.*)", re.DOTALL)  # a logger may put a prefix before all tags
Curve = dict[int, float]  # step -> value
Events = tuple[tuple[int, str], ...]


def read_strata(log_dir: str | Path) -> Strata:
    """Read what :class:`~structurenet_pl.StrataMonitor` logged to TensorBoard, or with Lightning's CSVLogger.

    Args:
        log_dir: Directory of one run.

    Raises:
        ModuleNotFoundError: If tensorboard is missing, and needed.
        ValueError: If there is no such directory, or it holds no learning rates of components.
    """
    folder = Path(log_dir)
    if not folder.is_dir():
        raise ValueError(f"{log_dir} is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger")
    table = folder / "metrics.csv"
    curves, events = (_read_csv(table), ()) if table.exists() else _read_tensorboard(folder)
    lrs = {tag.removeprefix("lr/"): curve for tag, curve in curves.items() if tag.startswith("lr/")}
    if not lrs:
        raise ValueError(
            f"{log_dir} holds no scalars lr/<component>: train with StrataMonitor and a TensorBoardLogger or CSVLogger"
        )
    births = {component: min(curve) for component, curve in lrs.items()}
    components = sorted(lrs, key=births.__getitem__)
    steps = np.unique([step for curve in lrs.values() for step in curve])
    later: dict[int, list[str]] = {}
    for component in components:
        if births[component] > steps[0]:
            later.setdefault(births[component], []).append(component)
    return Strata(
        components=tuple(components),
        steps=steps,
        lrs=np.array([_filled(lrs[component], steps) for component in components]),
        frozen=np.array([_filled(curves.get(f"frozen/{component}", {}), steps) for component in components]) == 1,
        events=events or tuple((step, f"+ {', '.join(born)}") for step, born in later.items()),
    )


def _read_tensorboard(folder: Path) -> tuple[dict[str, Curve], Events]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pictures of logs need pip install 'structurenet-pl[plots]'") from error
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: all of them
    found = {tag: ours[1] for tag in log.Tags()["scalars"] if (ours := OURS.fullmatch(tag))}
    curves = {ours: {point.step: point.value for point in log.Scalars(tag)} for tag, ours in found.items()}
    if GROWTH_TAG not in log.Tags()["tensors"]:
        return curves, ()
    return curves, _read_growth(log.Tensors(GROWTH_TAG)[-1].tensor_proto.string_val[0].decode())


def _read_growth(table: str) -> Events:
    """The events of the table that :func:`~structurenet_pl.looking.tensorboard.growth_table` makes."""
    events = []
    for line in table.splitlines()[2:]:
        when, what, *_ = line.strip("| ").split(" | ")
        step = when.removeprefix("step&nbsp;").partition("<br>")[0]
        changes = (change.split(": ", 1) for change in what.replace("`", "").split("<br>"))
        events.append((int(step), "; ".join(f"{SIGNS[kind]} {names}" for kind, names in changes)))
    return tuple(events)


def _read_csv(table: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            for tag, value in row.items():
                if value and (ours := OURS.fullmatch(tag)):
                    curves.setdefault(ours[1], {})[int(row["step"])] = float(value)
    return curves


def _filled(curve: Mapping[int, float], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """A curve at all steps, where it has no point the last before; nan before its first point and after its last."""
    known = np.array(sorted(curve), dtype=np.int64)
    values = np.array([np.nan, *(curve[step] for step in known)])
    place = np.searchsorted(known, steps, side="right")
    return np.where(steps <= max(curve, default=-1), values[place], np.nan)
