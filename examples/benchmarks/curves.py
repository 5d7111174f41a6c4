"""Draws the figures of rows over size, so that a term shows that grows faster than the network."""

import math
from collections.abc import Mapping, Sequence

import matplotlib

from examples.benchmarks.harness import Figure, Row, in_seconds

matplotlib.use("Agg")  # before pyplot: there may be no display

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

COLUMNS = 6


def draw(rows: Mapping[str, Row], found: Mapping[str, Sequence[Figure]], file: str) -> None:
    """A panel for each row with several sizes: times of both sides over size, both axes logarithmic."""
    shown = {name: figures for name, figures in found.items() if len(figures) > 1}
    columns = max(1, min(COLUMNS, len(shown)))
    height = max(1, math.ceil(len(shown) / columns))
    figure, axes = plt.subplots(
        height, columns, figsize=(2.6 * columns, 2.1 * height), layout="constrained", squeeze=False
    )
    for panel in axes.flat[len(shown) :]:
        panel.remove()
    for panel, (name, figures) in zip(axes.flat, shown.items(), strict=False):
        sizes = [one.size for one in figures]
        # a difference that noise made negative has no logarithm
        panel.loglog(sizes, [one.ours for one in figures], "o-", label="ours", nonpositive="mask")
        against = [one.reference or math.nan for one in figures]
        panel.loglog(sizes, against, "s--", color="gray", label="against", nonpositive="mask")
        panel.loglog(sizes, [figures[0].ours * size / sizes[0] for size in sizes], ":", color="silver", label="linear")
        panel.set_title(name, fontsize=10)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        low, high = panel.get_ylim()
        panel.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5), numticks=5))
        panel.yaxis.set_major_formatter(lambda value, _: in_seconds(value))
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_locator(NullLocator())
        panel.set_xlabel(rows[name].of, fontsize=8)
        panel.tick_params(labelsize=8)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(file, dpi=100)
