"""The curves of a history: learning rate against step, one curve for each component."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.figure_parts import (
    MAX_AXIS_LABELS,
    MAX_ENTRIES,
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
    from matplotlib.figure import Figure


def draw_curves(history: LRHistory, size: tuple[float, float] = (10, 5)) -> "Figure":
    """Draw the effective lr of every component as a curve.

    Needs matplotlib.

    Args:
        history: The learning rates to draw.
        size: Width and height in inches: the larger, the smaller is the print.

    Returns:
        A figure: x the step, y the effective lr, from blue for the oldest component to red for the youngest; entries
        that widening added follow their component. Older curves are broader, so that they show behind younger ones. An
        lr of 0, which a logarithmic axis does not have, is a line in a strip below, dotted where the component is
        frozen. Dashed lines are growth events.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If the history is empty.
    """
    figure = empty_figure(history, size)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    edges = np.append(history.steps, history.steps[-1] + 1)
    drawn, zero = ~history.frozen & (history.lrs > 0), ~history.frozen & (history.lrs == 0)
    lrs = np.where(drawn, history.lrs, np.nan)
    rows = len(lrs)
    few = rows <= MAX_ENTRIES
    colors = colormaps["turbo"].resampled(rows)
    if has_strip := history.frozen.any() or zero.any():
        axes, strip = figure.subplots(2, sharex=True, height_ratios=[7, 1])
    else:
        axes = strip = figure.subplots()
    for row, component in enumerate(history.components):
        # corners only: of many steps most would fall on the same pixel
        corners = _corners(lrs[row], history.steps)
        axes.plot(
            np.append(history.steps[corners], edges[-1]),
            np.append(lrs[row, corners], lrs[row, -1]),
            drawstyle="steps-post",
            color=colors(row),
            linewidth=2 + 3 * (1 - row / rows) if few else 1.5,
            label=shortened(component, 10),
        )
    legend: list[Any] = [*axes.get_lines()] if few else []
    low, high = lr_limits(lrs[drawn])
    margin = (high / low) ** 0.05  # 5 % of the height, on a logarithmic axis
    axes.set(ylabel="effective learning rate", yscale="log", ylim=(low / margin, high * margin))

    if has_strip:
        strip.set(ylim=(-1, rows), yticks=[(rows - 1) / 2], yticklabels=["0"])
    for label, mask, linestyle in (("frozen", history.frozen, ":"), ("lr 0", zero, "-")):
        style: dict[str, Any] = {"linestyle": linestyle, "linewidth": 2.5}
        for row, start, end in stretches(mask):
            strip.plot(edges[[start, end]], [row, row], color=colors(row), **style)
        if mask.any():
            legend.append(Line2D([], [], color="0.3", label=label, **style))
    if history.events:
        mark_growth([axes, strip] if has_strip else [axes], history, label_width=0.8 / size[0], fontsize=9)

    strip.set(xlabel=step_axis_label(history), xlim=edges[[0, -1]])
    strip.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if not few:
        ticks = np.linspace(0, rows - 1, MAX_AXIS_LABELS).astype(int).tolist()
        scale = ScalarMappable(Normalize(-0.5, rows - 0.5), colors)
        bar = figure.colorbar(scale, ax=axes, label="component, by birth")
        bar.set_ticks(ticks, labels=[shortened(history.components[row], 10) for row in ticks])
    if legend:
        figure.legend(handles=legend, title="component, by birth" if few else None, loc="outside right upper")
    return figure


def _corners(lrs: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions of the first, lowest, highest and last value in each column of the picture: they fix the curve."""
    columns = (steps - steps[0]) * MAX_PICTURE_COLUMNS // (steps[-1] + 1 - steps[0])
    turns = np.flatnonzero(np.diff(columns)) + 1
    starts, ends = np.append(0, turns), np.append(turns, len(steps))
    # sorted by column, then by value: nan comes first in both, so the last of a column is its highest or lowest value
    upward = np.lexsort((np.nan_to_num(lrs, nan=-np.inf), columns))
    downward = np.lexsort((-np.nan_to_num(lrs, nan=np.inf), columns))
    return np.unique(np.concatenate([starts, ends - 1, upward[ends - 1], downward[ends - 1]]))
