"""The heat map of a history: component by step, the learning rate as a colour."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.figure_parts import (
    MAX_AXIS_LABELS,
    MAX_PICTURE_COLUMNS,
    empty_figure,
    lr_limits,
    mark_growth,
    shortened,
    step_axis_label,
    stretches,
)
from structurenet_pl.monitoring.lr_history import LRHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

LARGE: dict[str, Any] = {"fontsize": 20, "fontweight": "bold"}  # TensorBoard's thumbnails drop pixels of thin letters
FROZEN_STYLE: dict[str, Any] = {"facecolor": "#c9d6e6", "edgecolor": "#5d7896", "hatch": "//", "linewidth": 0}
ZERO_STYLE: dict[str, Any] = {"facecolor": "#e8998d"}


def draw_heat_map(history: LRHistory) -> "Figure":
    """Draw the effective lr of every component at every step as a colour.

    Needs matplotlib.

    Args:
        history: The learning rates to draw.

    Returns:
        A figure: x the step, y the component, the oldest at the bottom, as in rock, and above it the entries that
        widening added, if their lr differs. The colour is the logarithm of the effective lr. It is white before birth,
        hatched where a component is frozen, and red where the lr is 0 but the component is not frozen. Dashed lines are
        growth events. The labels are readable in a thumbnail, too.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If the history is empty.
    """
    figure = empty_figure(history, (12, 7))
    from matplotlib.colors import LogNorm

    axes = figure.subplots()
    first, last = history.steps[[0, -1]]
    # one step for each visible column: a mesh of all steps would be slow to draw and look the same
    grid = np.linspace(first, last, MAX_PICTURE_COLUMNS)
    columns = np.unique(np.searchsorted(history.steps, grid, side="right") - 1)
    edges = np.append(history.steps[columns], last + 1)
    frozen, lrs = history.frozen[:, columns], history.lrs[:, columns]
    coloured, zero = ~frozen & (lrs > 0), ~frozen & (lrs == 0)

    limits = lr_limits(lrs[coloured])
    between = np.arange(len(lrs) + 1) - 0.5
    mesh = axes.pcolormesh(edges, between, np.where(coloured, lrs, np.nan), norm=LogNorm(*limits), cmap="viridis")
    if coloured.any():
        _add_colour_bar(figure, mesh, *limits)

    legend: list[Any] = []
    for label, mask, style in (("frozen", frozen, FROZEN_STYLE), ("lr 0", zero, ZERO_STYLE)):
        if mask.any():
            legend.append(_add_boxes(axes, mask, edges, label, style))
    if len(lrs) <= MAX_AXIS_LABELS:  # lines between many rows would cover them
        axes.hlines(between[1:-1], first, last + 1, color="white", linewidth=2)
    if history.events:
        legend.append(mark_growth([axes], history, label_width=0.16, fontsize=18, fontweight="bold"))
    if legend:
        figure.legend(
            handles=legend, loc="outside lower center", ncols=3, prop={"size": 20, "weight": "bold"}, frameon=False
        )
    _label_axes(axes, history)
    return figure


def _add_colour_bar(figure: "Figure", mesh: "QuadMesh", low: float, high: float) -> None:
    ticks = _round_ticks(low, high)
    bar = figure.colorbar(mesh, pad=0.02)
    bar.set_label("learning rate", labelpad=12, **LARGE)
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], **LARGE)
    bar.minorticks_off()


def _add_boxes(
    axes: "Axes", mask: NDArray[np.bool_], edges: NDArray[np.int64], label: str, style: dict[str, Any]
) -> "Patch":
    """Draw a box over each unbroken stretch of a mask, and return an entry for the legend."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    boxes = [Rectangle((edges[start], row - 0.5), edges[end] - edges[start], 1) for row, start, end in stretches(mask)]
    axes.add_collection(PatchCollection(boxes, label=label, **style))
    return Patch(label=label, **style)


def _label_axes(axes: "Axes", history: LRHistory) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = history.steps[[0, -1]]
    rows = len(history.components)
    labelled = range(0, rows, -(-rows // MAX_AXIS_LABELS))
    axes.set_yticks(labelled, [shortened(history.components[row], 20) for row in labelled], **LARGE)
    axes.set(xlim=(first, last + 1), ylim=(-0.5, rows - 0.5))
    steps = [step for step in MaxNLocator(4, integer=True).tick_values(first, last + 1) if first <= step <= last + 1]
    axes.set_xticks(steps, [f"{step:.0f}" for step in steps], **LARGE)
    axes.set_xlabel(step_axis_label(history), **LARGE)


def _round_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers in a range; its ends if it has fewer."""
    from matplotlib.ticker import LogLocator

    for digits in ((1,), (1, 3), (1, 2, 3, 5)):
        ticks = [tick for tick in LogLocator(subs=digits, numticks=6).tick_values(low, high) if low <= tick <= high]
        if len(ticks) > 2:
            return ticks
    return [low, high]
