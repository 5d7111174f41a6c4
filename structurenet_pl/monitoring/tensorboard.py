"""Output that only TensorBoard has: a layout of charts, tables of the structure, pictures."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from structurenet_pl.lightning import TENSORBOARD_LOGGERS, Trainer
from structurenet_pl.monitoring.heat_map import draw_heat_map
from structurenet_pl.monitoring.lr_curves import draw_curves
from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.structure.events import Component, GrowthEvent

THUMBNAIL = (8.0, 4.7)  # inches; TensorBoard shows pictures 350 pixels wide at first
RANGE_TAGS = tuple(f"strata/lr_range/{word}" for word in ("mean", "min", "max"))  # charts of them need equal steps
LAYOUT_TAG = b"custom_scalars__config__"  # under which TensorBoard stores a layout in its event files


def tensorboard_loggers(trainer: Trainer) -> list[Any]:
    """The loggers of TensorBoard; none on processes that do not write."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, TENSORBOARD_LOGGERS)]


def layout(prefix: str = "") -> dict[str, dict[str, list[Any]]]:
    """The charts of the strata, for ``SummaryWriter.add_custom_scalars``.

    Args:
        prefix: The prefix that the logger puts before all tags.
    """
    return {
        "strata": {
            # a pattern, so that the chart includes components that are yet unborn
            "effective lr of every component": ["Multiline", [f"^{re.escape(prefix)}lr/"]],
            "lowest, mean and highest lr": ["Margin", [f"{prefix}{tag}" for tag in RANGE_TAGS]],
        }
    }


def add_layout(logger: Any) -> None:
    """Add our charts to the page of custom scalars, unless the run has a layout: a second one would replace it.

    Args:
        logger: A ``TensorBoardLogger``; a directory that is not local counts as one without a layout.
    """
    logger.experiment.flush()  # a layout of the user may still be in the buffer
    if not any(LAYOUT_TAG in file.read_bytes() for file in Path(logger.log_dir).glob("*tfevents*")):
        logger.experiment.add_custom_scalars(layout(tag_prefix(logger)))


def tag_prefix(logger: Any) -> str:
    """What a logger puts before all tags, for which Lightning has no public attribute."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""


def can_draw() -> bool:
    """Whether matplotlib is installed; the import itself waits until a picture is drawn."""
    return find_spec("matplotlib") is not None


def write_pictures(loggers: Sequence[Any], history: LRHistory, step: int) -> None:
    """Write a heat map and curves on the page of images, and on the first page.

    Args:
        loggers: Loggers of TensorBoard.
        history: The learning rates to draw.
        step: The step that the pictures stand at.
    """
    pictures = {"heat_map": draw_heat_map(history), "curves": draw_curves(history, THUMBNAIL)}
    for logger in loggers:
        for tag, picture in pictures.items():
            # TensorBoard opens on the groups of tags that come first in the order of letters, capitals before others
            logger.experiment.add_figure(f"LR/{tag}", picture, step)


def write_structure(
    logger: Any,
    components: Mapping[str, Component],
    parameter_counts: Mapping[str, int],
    log: Sequence[GrowthEvent],
    step: int,
) -> None:
    """Write tables of the components and of the growth events on the page of texts.

    Args:
        logger: A ``TensorBoardLogger``.
        components: The components by name, in order of depth.
        parameter_counts: Their numbers of parameters.
        log: The growth log.
        step: The step that the tables stand at.
    """
    logger.experiment.add_text("strata/components", component_table(components, parameter_counts), step)
    if log:
        logger.experiment.add_text("strata/growth", growth_table(log), step)


def growth_table(log: Sequence[GrowthEvent]) -> str:
    """The growth log as a table in Markdown."""
    rows = []
    for event in log:
        outcome = "<br>".join(f"{kind}: {as_code(names)}" for kind, names in event.outcome.items())
        if event.widened and event.parameters:  # logs of earlier versions have no numbers
            before, after = event.parameters
            outcome += f"<br>{after - before:+,} entries"
        place = [] if event.depth is None else [f"depth {event.depth}"]
        if event.adjacent:
            place.append(f"next to {as_code(event.adjacent)}")
        counts = " → ".join(f"{count:,}" for count in event.parameters)
        # non-breaking spaces: TensorBoard breaks the words of narrow columns
        time = f"from {event.clock} on".replace(" ", "&nbsp;").replace(",&nbsp;", ",<br>")
        rows.append([time, outcome, "<br>".join(place), counts, event.asked_by or ""])
    return as_table(["when", "what", "where", "parameters", "asked for by"], rows)


def component_table(components: Mapping[str, Component], parameter_counts: Mapping[str, int]) -> str:
    """The components as a table in Markdown, in order of depth.

    Args:
        components: The components by name.
        parameter_counts: Their numbers of parameters.
    """
    rows = [
        [
            as_code([name]),
            component.role or "",
            component.depth,
            component.born,
            f"{parameter_counts[name]:,}",
        ]
        for name, component in components.items()
    ]
    return as_table(["component", "role", "depth", "trains from", "parameters"], rows)


def as_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def as_code(names: Sequence[str]) -> str:
    """Names in Markdown."""
    return ", ".join(f"`{name}`" for name in names)
