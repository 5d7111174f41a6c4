"""The picture of a run, of a log, or of what is to come."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.figures import curves, heat_map
from structurenet_pl.monitoring.log_reader import read_strata
from structurenet_pl.monitoring.lr_history import LRHistory, mark
from structurenet_pl.structure.events import GrowthEvent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = {"curves": curves, "heat_map": heat_map}


def plot_strata(
    source: Trainer | LRHistory | str | Path,
    growth_log: Iterable[GrowthEvent] = (),
    kind: Literal["curves", "heat_map"] = "curves",
) -> "Figure":
    """Draw the effective lr of every component over the steps of a run, with its growth events.

    Needs the extra ``structurenet-pl[plots]``.

    Args:
        source: A Trainer with a :class:`~structurenet_pl.StrataMonitor`, in a fit or after it; the ``log_dir`` of a run
            that had one, which holds its ``strata.pt``; or what :func:`~structurenet_pl.preview` gives, without
            training.
        growth_log: The events to mark, such as the module's ``growth_log``. Without it they are those that the source
            knows of.
        kind: ``"curves"``: lr against step, a curve for each component; ``"heat_map"``: component against step, the lr
            a colour, which stays readable with many components.

    Returns:
        A figure. An lr of 0 is a line in a strip below the curves, dotted where the component is frozen; it has a
        colour of its own in the heat map, hatched where it is frozen.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
        ValueError: If the source holds no learning rates of components, or there is no such kind of picture.

    Example:
        >>> from structurenet_pl import SedimentaryDecay, Warmup, plot_strata, preview
        >>> figure = plot_strata(preview([Warmup(newborn_only=False), SedimentaryDecay()], epochs=60))
        >>> plot_strata("logs/run").savefig("strata.png")
        Traceback (most recent call last):
        ValueError: logs/run is no directory: give the log_dir of the run's TensorBoardLogger or CSVLogger
    """
    if kind not in PICTURES:
        raise ValueError(f"kind must be one of {', '.join(PICTURES)}, got {kind!r}")
    strata = _strata(source)
    if events := tuple(map(mark, growth_log)):
        strata = replace(strata, events=events)
    return PICTURES[kind](strata)


def _strata(source: Trainer | LRHistory | str | Path) -> LRHistory:
    if isinstance(source, LRHistory):
        return source
    if isinstance(source, str | Path):
        return read_strata(source)
    recorded = [getattr(callback, "strata", None) for callback in getattr(source, "callbacks", ())]
    histories = [one for one in recorded if isinstance(one, LRHistory)]  # of a StrataMonitor
    if not histories:
        raise ValueError(
            f"there is no StrataMonitor in the {type(source).__name__}: give plot_strata a Trainer that had one in the "
            "fit, the log_dir of a run, or preview(callbacks, growth_log)"
        )
    return histories[0]
