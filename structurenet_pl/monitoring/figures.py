"""Pictures of the strata."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.lr_history import LRHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLUMNS = 1000  # of a picture; what is narrower than one of them could not be seen
LABELLED = 14  # components that have a label beside an axis
LISTED = 20  # curves that have an entry in the legend, growth events that have a line
LABEL = 320  # points, about, that a label may take
LARGE: dict[str, Any] = {"fontsize": 20, "fontweight": "bold"}  # TensorBoard makes it smaller by leaving pixels out
FROZEN: dict[str, Any] = {"facecolor": "#c9d6e6", "edgecolor": "#5d7896", "hatch": "//", "linewidth": 0}
ZERO = {"facecolor": "#e8998d"}


def heat_map(strata: LRHistory) -> "Figure":
    """Draw the effective lr of every component at every step as a colour.

    Needs the extra ``structurenet-pl[plots]``.

    Args:
        strata: What to draw.

    Returns:
        A figure: x the step, y the component, the oldest at the bottom, as in rock; the colour is the logarithm of the
        effective lr. It is white before birth, hatched where a component is frozen, and red where the lr is 0 without
        that. Dashed lines are growth events. The labels can be read in a thumbnail, too.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If there is nothing to draw.
    """
    figure = _figure(strata, (12, 7))
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    first, last = strata.steps[[0, -1]]
    columns = np.unique(np.searchsorted(strata.steps, np.linspace(first, last, COLUMNS), side="right") - 1)
    edges = np.append(strata.steps[columns], last + 1)
    frozen, lrs = strata.frozen[:, columns], strata.lrs[:, columns]
    coloured, zero = ~frozen & (lrs > 0), ~frozen & (lrs == 0)

    low, high = _limits(lrs[coloured])
    between = np.arange(len(lrs) + 1) - 0.5
    mesh = axes.pcolormesh(edges, between, np.where(coloured, lrs, np.nan), norm=LogNorm(low, high), cmap="viridis")
    if coloured.any():
        ticks = _ticks(low, high)
        bar = figure.colorbar(mesh, pad=0.02)
        bar.set_label("learning rate", **LARGE)
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], **LARGE)
        bar.minorticks_off()

    legend: list[Any] = []
    for label, where, style in (("frozen", frozen, FROZEN), ("lr 0", zero, ZERO)):
        boxes = [
            Rectangle((edges[start], row - 0.5), edges[end] - edges[start], 1) for row, start, end in _stretches(where)
        ]
        if boxes:
            axes.add_collection(PatchCollection(boxes, label=label, **style))
            legend.append(Patch(label=label, **style))
    if len(lrs) <= LABELLED:
        axes.hlines(between[1:-1], first, last + 1, color="white", linewidth=2)
    if strata.events:
        legend.append(_mark_growth([axes], strata, 0.16, fontsize=18, fontweight="bold"))
    if legend:
        figure.legend(
            handles=legend, loc="outside lower center", ncols=3, prop={"size": 20, "weight": "bold"}, frameon=False
        )

    labelled = range(0, len(lrs), -(-len(lrs) // LABELLED))
    axes.set_yticks(labelled, [_end(strata.components[row], 20) for row in labelled], **LARGE)
    axes.set(xlim=(first, last + 1), ylim=(-0.5, len(lrs) - 0.5))
    steps = [step for step in MaxNLocator(4, integer=True).tick_values(first, last + 1) if first <= step <= last + 1]
    axes.set_xticks(steps, [f"{step:.0f}" for step in steps], **LARGE)
    axes.set_xlabel(_axis(strata), **LARGE)
    return figure


def curves(strata: LRHistory) -> "Figure":
    """Draw the effective lr of every component as a curve.

    Needs the extra ``structurenet-pl[plots]``.

    Args:
        strata: What to draw.

    Returns:
        A figure: x the step, y the effective lr, from blue for the oldest component to red for the youngest; older ones
        are drawn broader, so that they can be seen behind younger ones. An lr of 0, which a logarithmic axis does not
        have, is a line in a strip below, dotted where the component is frozen. Dashed lines are growth events.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If there is nothing to draw.
    """
    figure = _figure(strata, (10, 5))
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    edges = np.append(strata.steps, strata.steps[-1] + 1)
    drawn, zero = ~strata.frozen & (strata.lrs > 0), ~strata.frozen & (strata.lrs == 0)
    lrs = np.where(drawn, strata.lrs, np.nan)
    count = len(lrs)
    few = count <= LISTED
    colors = colormaps["turbo"].resampled(count)
    if resting := strata.frozen.any() or zero.any():
        axes, bottom = figure.subplots(2, sharex=True, height_ratios=[7, 1])
    else:
        axes = bottom = figure.subplots()
    for row, component in enumerate(strata.components):
        shown = _corners(lrs[row], strata.steps)
        axes.plot(
            np.append(strata.steps[shown], edges[-1]),
            np.append(lrs[row, shown], lrs[row, -1]),
            drawstyle="steps-post",
            color=colors(row),
            linewidth=2 + 3 * (1 - row / count) if few else 1.5,
            label=_end(component, 10),
        )
    legend: list[Any] = [*axes.get_lines()] if few else []
    low, high = _limits(lrs[drawn])
    margin = (high / low) ** 0.05
    axes.set(ylabel="effective learning rate", yscale="log", ylim=(low / margin, high * margin))

    if resting:
        bottom.set(ylim=(-1, count), yticks=[(count - 1) / 2], yticklabels=["0"])
    for label, where, linestyle in (("frozen", strata.frozen, ":"), ("lr 0", zero, "-")):
        style: dict[str, Any] = {"linestyle": linestyle, "linewidth": 2.5}
        for row, start, end in _stretches(where):
            bottom.plot(edges[[start, end]], [row, row], color=colors(row), **style)
        if where.any():
            legend.append(Line2D([], [], color="0.3", label=label, **style))
    if strata.events:
        _mark_growth([axes, bottom] if resting else [axes], strata, 0.08, fontsize=9)

    bottom.set(xlabel=_axis(strata), xlim=edges[[0, -1]])
    bottom.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if not few:
        ticks = np.linspace(0, count - 1, LABELLED).astype(int).tolist()
        scale = ScalarMappable(Normalize(-0.5, count - 0.5), colors)
        bar = figure.colorbar(scale, ax=axes, label="component, by birth")
        bar.set_ticks(ticks, labels=[_end(strata.components[row], 10) for row in ticks])
    if legend:
        figure.legend(handles=legend, title="component, by birth" if few else None, loc="outside right upper")
    return figure


def _figure(strata: LRHistory, size: tuple[float, float]) -> "Figure":
    """An empty figure for what there is to draw."""
    if not strata.lrs.size:
        raise ValueError("there is nothing to draw: no learning rate of a component has been recorded yet")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pictures need pip install 'structurenet-pl[plots]'") from error
    return Figure(figsize=size, layout="constrained")


def _mark_growth(
    charts: Sequence["Axes"], strata: LRHistory, room: float, fontsize: int, fontweight: str = "normal"
) -> "Line2D":
    """Draw a line for each growth event, and a label where there is room for one; give what explains it in a legend.

    Many lines would hide what they cross: they become ticks at the top of the first chart.

    Args:
        charts: Drawn one above the other.
        strata: What they show.
        room: What a label needs, as a share of the width.
        fontsize: Of the labels, in points.
        fontweight: Of the labels.
    """
    from matplotlib.lines import Line2D

    first, last = strata.steps[[0, -1]]
    texts: dict[int, list[str]] = {}
    for step, text in strata.events:
        if first <= step <= last + 1:
            texts.setdefault(step, []).append(text)
    style: dict[str, Any] = {"color": "0.3", "linestyle": "--", "linewidth": fontsize / 9}
    free = first
    for step, several in sorted(texts.items()):
        if len(texts) <= LISTED:
            for axes in charts:
                axes.axvline(step, **style)
        else:
            charts[0].axvline(step, 1, 1.03, clip_on=False, color="0.3", linewidth=1)
        if step >= free:
            free = step + room * (last + 1 - first)
            text, letters = "; ".join(several), LABEL // fontsize
            charts[0].annotate(
                text if len(text) <= letters else text[: letters - 1] + "…",
                (step, 1.01 if len(texts) <= LISTED else 1.04),
                xycoords=("data", "axes fraction"),
                rotation=25,
                fontsize=fontsize,
                fontweight=fontweight,
            )
    return Line2D([], [], label="growth", **style)


def _axis(strata: LRHistory) -> str:
    """What the axis of steps says."""
    return f"{strata.unit}\n{strata.note}" if strata.note else strata.unit


def _corners(lrs: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where a curve has to be known: the first, lowest, highest and last value in each column of the picture."""
    columns = (steps - steps[0]) * COLUMNS // (steps[-1] + 1 - steps[0])
    turns = np.flatnonzero(np.diff(columns)) + 1
    starts, ends = np.append(0, turns), np.append(turns, len(steps))
    upward = np.lexsort((np.nan_to_num(lrs, nan=-np.inf), columns))
    downward = np.lexsort((-np.nan_to_num(lrs, nan=np.inf), columns))
    return np.unique(np.concatenate([starts, ends - 1, upward[ends - 1], downward[ends - 1]]))


def _limits(lrs: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and the largest, or what lies around them if they are one."""
    low, high = (float(lrs.min()), float(lrs.max())) if lrs.size else (1.0, 1.0)
    return (low, high) if low < high else (low / 3, high * 3)


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers in a range, its ends if there is none."""
    from matplotlib.ticker import LogLocator

    for digits in ((1,), (1, 3), (1, 2, 3, 5)):
        ticks = [tick for tick in LogLocator(subs=digits, numticks=6).tick_values(low, high) if low <= tick <= high]
        if len(ticks) > 2:
            return ticks
    return [low, high]


def _stretches(where: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Row, first column and the column behind the last, of every unbroken stretch."""
    turns = np.diff(np.pad(where, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(turns == 1)
    _, ends = np.nonzero(turns == -1)
    yield from zip(rows, starts, ends, strict=True)


def _end(name: str, fontsize: int) -> str:
    """As much of a name as a label has room for: its end is what tells it from others."""
    letters = LABEL // fontsize
    return name if len(name) <= letters else "…" + name[1 - letters :]
