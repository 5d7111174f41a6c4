"""Pictures of the strata."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from structurenet_pl.events import GrowthEvent
from structurenet_pl.strata import Strata

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNS = {"born": "+", "widened": "wider", "shrunk": "narrower", "removed": "-"}


def heat_map(strata: Strata) -> "Figure":
    """Draw the effective lr of every component at every step as a colour; a placeholder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(strata.steps, range(len(strata.components)), strata.lrs, norm="log", shading="nearest")
    axes.set_yticks(range(len(strata.components)), strata.components)
    figure.colorbar(mesh)
    return figure


def plot_strata(log_dir: str | Path, growth_log: Iterable[GrowthEvent] = ()) -> "Figure":
    """Draw the effective lr of every component over the steps of a run, with its growth events.

    Needs the extra ``structurenet-pl[plots]``.

    Args:
        log_dir: Directory of a TensorBoard run that :class:`~structurenet_pl.StrataMonitor` logged.
        growth_log: The module's ``growth_log``.

    Returns:
        A figure: x the step, y the effective lr, from blue for the oldest component to red for the youngest. A
        learning rate of 0 is not drawn, the axis being logarithmic; older components are drawn broader, so that they
        can be seen behind younger ones.

    Raises:
        ModuleNotFoundError: If matplotlib or tensorboard is missing.
        ValueError: If there is no such directory, or it holds no learning rates of components.

    Example:
        >>> plot_strata("logs/run").savefig("strata.png")
        Traceback (most recent call last):
        ValueError: logs/run is no directory: give the log_dir of the run's TensorBoardLogger
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; plot_strata needs pip install 'structurenet-pl[plots]'") from error

    if not Path(log_dir).is_dir():
        raise ValueError(f"{log_dir} is no directory: give the log_dir of the run's TensorBoardLogger")
    events = EventAccumulator(str(log_dir), size_guidance={"scalars": 0}).Reload()
    curves = {tag.removeprefix("lr/"): events.Scalars(tag) for tag in events.Tags()["scalars"] if tag.startswith("lr/")}
    if not curves:
        raise ValueError(f"{log_dir} holds no scalars lr/<component>: train with StrataMonitor and a TensorBoardLogger")
    by_birth = sorted(curves.items(), key=lambda item: item[1][0].step)
    last = max(points[-1].step for points in curves.values())

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["turbo"].resampled(len(curves))
    for index, (component, points) in enumerate(by_birth):
        steps, values = [point.step for point in points], [point.value or float("nan") for point in points]
        axes.plot(
            steps,
            values,
            drawstyle="steps-post",
            color=colors(index),
            linewidth=2 + 3 * (1 - index / len(curves)),
            label=component,
        )
    for event in growth_log:
        axes.axvline(event.clock.step, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(
            "; ".join(f"{SIGNS[kind]} {', '.join(names)}" for kind, names in event.outcome.items()),
            (event.clock.step, 1.01),
            xycoords=("data", "axes fraction"),
            rotation=20,
            fontsize=9,
        )
    axes.set(xlabel="optimizer step", ylabel="effective learning rate", yscale="log", xlim=(0, last))
    axes.grid(alpha=0.3)
    figure.legend(title="component, by birth", loc="outside right upper")
    return figure
