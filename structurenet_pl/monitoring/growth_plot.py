"""The public ``plot_growth``: what a growing network is judged by, its metric at each size and each step."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.figure_parts import Timeline, mark_growth, new_figure
from structurenet_pl.monitoring.lr_history import growth_mark
from structurenet_pl.monitoring.metric_history import MetricHistory
from structurenet_pl.monitoring.strata_file import read_validations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Run: TypeAlias = Trainer | MetricHistory | str | Path
MAX_MARKERS = 100  # validations; the markers of more would cover each other


def plot_growth(source: Run | Mapping[str, Run], metric: str) -> "Figure":
    """Draw a validation metric against the steps of a run and against the number of parameters of its network.

    All parameters of the module count, frozen ones included. Needs matplotlib.

    Args:
        source: A run: a Trainer with a ``StrataMonitor``, during a fit or after it, or the ``log_dir`` of such a run,
            which holds its ``strata.pt``. Or several runs to compare, by name.
        metric: Name of a metric that ``validation_step`` logs.

    Returns:
        A figure with two charts of one height. Left: metric against step; dashed lines and diamonds are growth events.
        Right: metric against number of parameters, from validation to validation. A network of one size moves up or
        down, growth moves it to the right; large dots are the last validation of each size.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If there is no run, a run has no StrataMonitor or no validation, or the metric is unknown.

    Example:
        >>> from structurenet_pl import plot_growth
        >>> plot_growth({"grown": "logs/grown", "static": "logs/static"}, "val_accuracy").savefig("growth.png")
        Traceback (most recent call last):
        ValueError: logs/grown is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger
    """
    runs = source if isinstance(source, Mapping) else {"": source}
    histories = {name: _history_of(run) for name, run in runs.items()}
    if not histories:
        raise ValueError("there is nothing to draw: give plot_growth at least one run")
    for name, history in histories.items():
        _check_metric(name, history, metric)
    figure = new_figure((11, 4.5))
    from matplotlib.ticker import EngFormatter, MaxNLocator

    by_step, by_size = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    # before the curves, which stand in front of the lines of growth
    growth = [
        mark_growth([axes], timeline, label_width, fontsize=9)
        for axes, timeline, label_width in zip((by_step, by_size), _timelines(histories), (0.08, 0.12), strict=True)
        if timeline.events
    ]
    for number, (name, history) in enumerate(histories.items()):
        _draw_run(by_step, by_size, history, history.metrics[metric], f"C{number % 10}", name)
    notes = dict.fromkeys(history.note for history in histories.values() if history.note)
    by_step.set(ylabel=metric, xlabel="\n".join(["optimizer step", *notes]), xlim=(0, None))
    by_step.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_size.set_xlabel("number of parameters")
    by_size.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    by_size.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 1.5M
    for axes in (by_step, by_size):
        axes.grid(alpha=0.3)
    if len(histories) > 1:
        entries = [*by_step.get_legend_handles_labels()[0], *growth[:1]]
        figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 5))
    return figure


def _draw_run(
    by_step: "Axes", by_size: "Axes", history: MetricHistory, values: NDArray[np.float64], color: str, name: str
) -> None:
    """Draw the two curves of a run, with diamonds at its growth and large dots where a size ends."""
    marker = "." if len(values) <= MAX_MARKERS else ""
    by_step.plot(history.steps, values, color=color, marker=marker, label=name)
    grown = [event.clock.step for event in history.log if history.steps[0] <= event.clock.step <= history.steps[-1]]
    by_step.plot(grown, np.interp(grown, history.steps, values), color=color, marker="D", linestyle="")
    by_size.plot(history.parameters, values, color=color, marker=marker, linewidth=1)
    last = np.append(np.diff(history.parameters) != 0, True)  # validations before the size changes, and the last of all
    by_size.plot(history.parameters[last], values[last], color=color, marker="o", markersize=8, linestyle="")


def _timelines(histories: Mapping[str, MetricHistory]) -> tuple[Timeline, Timeline]:
    """The growth events of all runs by step, and by the number of parameters after them, where the log shows it."""
    events = sorted(
        (event.clock.step, event.parameters[-1:], f"{name}: {text}" if len(histories) > 1 else text)
        for name, history in histories.items()
        for event in history.log
        for text in [growth_mark(event)[1]]
        if event.clock.step > 0  # otherwise the network has grown before the run
    )
    steps = np.concatenate([history.steps for history in histories.values()])
    sizes = np.concatenate([history.parameters for history in histories.values()])
    return (
        Timeline(np.array([0, steps.max()]), [(step, text) for step, _, text in events]),
        Timeline(
            np.array([sizes.min(), sizes.max()]), sorted((size, text) for _, after, text in events for size in after)
        ),
    )


def _history_of(run: Run) -> MetricHistory:
    if isinstance(run, MetricHistory):
        return run
    if isinstance(run, str | Path):
        return read_validations(run)
    # by attribute: this folder stands below callbacks, so it cannot import StrataMonitor
    recorded = [getattr(callback, "validations", None) for callback in getattr(run, "callbacks", ())]
    histories = [value for value in recorded if isinstance(value, MetricHistory)]
    if not histories:
        raise ValueError(
            f"there is no StrataMonitor in the {type(run).__name__}: give plot_growth a Trainer that had one in the "
            "fit, or the log_dir of a run"
        )
    return histories[0]


def _check_metric(name: str, history: MetricHistory, metric: str) -> None:
    run = f"the run {name!r}" if name else "the run"
    if not history.metrics:
        raise ValueError(
            f"{run} has no validation with a metric: give fit a validation loader, and log the metric in "
            "validation_step, as self.log('val_accuracy', ...)"
        )
    if metric not in history.metrics:
        raise ValueError(f"{run} has no validation metric {metric!r}, expected one of {', '.join(history.metrics)}")
