"""The public ``plot_strata``: the picture of a run, of a log, or of a preview."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.heat_map import draw_heat_map
from structurenet_pl.monitoring.lr_curves import draw_curves
from structurenet_pl.monitoring.lr_history import LRHistory, growth_mark
from structurenet_pl.monitoring.strata_file import read_strata_file
from structurenet_pl.structure.arguments import checks_arguments
from structurenet_pl.structure.events import GrowthEvent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = {"curves": draw_curves, "heat_map": draw_heat_map}


@checks_arguments
def plot_strata(
    source: Trainer | LRHistory | str | Path,
    growth_log: Iterable[GrowthEvent] = (),
    kind: Literal["curves", "heat_map"] = "curves",
) -> "Figure":
    """Draw the effective lr of every component over the steps of a run, with its growth events.

    Needs matplotlib.

    Args:
        source: A Trainer with a ``StrataMonitor``, during a fit or after it; the ``log_dir`` of
            a run with a StrataMonitor, which holds its ``strata.pt``; or the result of
            ``preview``, without training.
        growth_log: The events to mark, such as the module's ``growth_log``; empty for the events that the source knows.
        kind: ``"curves"``: lr against step, a curve for each component; ``"heat_map"``: component against step, the lr
            as a colour, which stays readable with many components.

    Returns:
        A figure. An lr of 0 is a line in a strip below the curves, dotted where the component is frozen; it has a
        colour of its own in the heat map, hatched where the component is frozen.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If the source holds no learning rates of components, or if ``kind`` is unknown.

    Example:
        >>> from structurenet_pl import SedimentaryDecay, Warmup, plot_strata, preview
        >>> figure = plot_strata(preview([Warmup(newborn_only=False), SedimentaryDecay()], epochs=60))
        >>> plot_strata("logs/run").savefig("strata.png")
        Traceback (most recent call last):
        ValueError: logs/run is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger
    """
    history = _history_of(source)
    if events := tuple(map(growth_mark, growth_log)):
        history = replace(history, events=events)
    return PICTURES[kind](history)


def _history_of(source: Trainer | LRHistory | str | Path) -> LRHistory:
    if isinstance(source, LRHistory):
        return source
    if isinstance(source, str | Path):
        return read_strata_file(source)
    # by attribute: this folder stands below callbacks, so it cannot import StrataMonitor
    recorded = [getattr(callback, "strata", None) for callback in getattr(source, "callbacks", ())]
    histories = [value for value in recorded if isinstance(value, LRHistory)]  # SedimentaryDecay.strata is a list
    if not histories:
        raise ValueError(
            f"there is no StrataMonitor in the {type(source).__name__}: give plot_strata a Trainer that had one in the "
            "fit, the log_dir of a run, or preview(callbacks, growth_log)"
        )
    return histories[0]
