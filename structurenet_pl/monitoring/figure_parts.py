"""Parts that the heat map and the curves share: an empty figure, limits, marks of growth events, labels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.lr_history import LRHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# matplotlib is an optional dependency, so every import of it stands inside a function

PICTURE_WIDTH = 960  # pixels; the page of TensorBoard has room for 980 in a window of 1400, and cuts off the rest
MAX_PICTURE_COLUMNS = 1000  # columns; anything narrower than one of them would be invisible
MAX_AXIS_LABELS = 14  # components that have a label beside an axis
MAX_ENTRIES = 20  # curves with an entry in the legend, growth events with a line
MAX_LABEL_LENGTH = 320  # points, an estimate, that a label may take


def empty_figure(history: LRHistory, size: tuple[float, float]) -> "Figure":
    """An empty figure for a history, ``PICTURE_WIDTH`` wide.

    Args:
        history: The history that the figure will show.
        size: Width and height in inches: the larger, the smaller is the print.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If the history is empty.
    """
    if not history.lrs.size:
        raise ValueError(
            "there is nothing to draw: no learning rate of a component has been recorded yet; train at least one step"
        )
    return new_figure(size)


def new_figure(size: tuple[float, float]) -> "Figure":
    """An empty figure.

    Args:
        size: Width and height in inches.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pictures need pip install matplotlib tensorboard") from error
    return Figure(figsize=size, dpi=PICTURE_WIDTH / size[0], layout="constrained")


class Timeline(NamedTuple):
    """An axis with growth events on it, of steps or of another number that moves with growth.

    Args:
        steps: Positions on the axis, ascending.
        events: Position and a short text of each growth event.
    """

    steps: NDArray[np.int64]
    events: Sequence[tuple[int, str]]


def mark_growth(
    charts: Sequence["Axes"],
    history: LRHistory | Timeline,
    label_width: float,
    fontsize: int,
    fontweight: str = "normal",
) -> "Line2D":
    """Draw a line for each growth event, label it where the label has room, and return an entry for the legend.

    Many lines would hide the curves that they cross: they become ticks at the top of the first chart.

    Args:
        charts: Charts that stand one above the other.
        history: The history or the axis that they show.
        label_width: Share of the width of the chart that a label needs.
        fontsize: Size of the labels in points.
        fontweight: Weight of the labels.
    """
    from matplotlib.lines import Line2D

    first, last = history.steps[[0, -1]]
    texts: dict[int, list[str]] = {}
    for step, text in history.events:
        if first <= step <= last + 1:
            texts.setdefault(step, []).append(text)
    style: dict[str, Any] = {"color": "0.3", "linestyle": "--", "linewidth": fontsize / 9}
    next_free = first
    for step, texts_of_step in sorted(texts.items()):
        if len(texts) <= MAX_ENTRIES:
            for axes in charts:
                axes.axvline(step, **style)
        else:
            charts[0].axvline(step, 1, 1.03, clip_on=False, color="0.3", linewidth=1)
        if step >= next_free:
            next_free = step + label_width * (last + 1 - first)
            text, letters = "; ".join(texts_of_step), MAX_LABEL_LENGTH // fontsize
            charts[0].annotate(
                text if len(text) <= letters else text[: letters - 1] + "…",
                (step, 1.01 if len(texts) <= MAX_ENTRIES else 1.04),
                xycoords=("data", "axes fraction"),
                rotation=25,
                fontsize=fontsize,
                fontweight=fontweight,
            )
    return Line2D([], [], label="growth", **style)


def step_axis_label(history: LRHistory) -> str:
    """The label of the axis of steps."""
    return f"{history.unit}\n{history.note}" if history.note else history.unit


def lr_limits(lrs: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and the largest lr; a range around them if they are equal, because an axis needs one."""
    low, high = (float(lrs.min()), float(lrs.max())) if lrs.size else (1.0, 1.0)
    return (low, high) if low < high else (low / 3, high * 3)


def stretches(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Row, first column and the column after the last, of every unbroken stretch of true values."""
    turns = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(turns == 1)
    _, ends = np.nonzero(turns == -1)
    yield from zip(rows, starts, ends, strict=True)


def shortened(name: str, fontsize: int) -> str:
    """The end of a name that a label has room for: names of components differ at their ends."""
    letters = MAX_LABEL_LENGTH // fontsize
    return name if len(name) <= letters else "…" + name[1 - letters :]
