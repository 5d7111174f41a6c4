"""What TensorBoard alone can show: a layout of charts, tables, a picture."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from structurenet_pl.lightning import TENSORBOARD_LOGGERS, Trainer
from structurenet_pl.structure.events import Component, GrowthEvent


def tensorboards(trainer: Trainer) -> list[Any]:
    """The loggers of TensorBoard, on the process that writes."""
    return [logger for logger in trainer.loggers if isinstance(logger, TENSORBOARD_LOGGERS) and trainer.is_global_zero]


def layout(prefix: str = "") -> dict[str, dict[str, list[Any]]]:
    """The charts of the strata, for ``SummaryWriter.add_custom_scalars``.

    Args:
        prefix: What the logger puts before all tags.
    """
    margin = [f"{prefix}lr_range/{word}" for word in ("mean", "min", "max")]
    return {
        "strata": {
            "effective lr of every component": ["Multiline", [f"^{re.escape(prefix)}lr/"]],  # also of those yet unborn
            "lowest, mean and highest lr": ["Margin", margin],
        }
    }


LAYOUT_TAG = b"custom_scalars__config__"


def add_layout(logger: Any) -> None:
    """Lay out the page of custom scalars, unless the run has a layout: a second one would take its place.

    Args:
        logger: A ``TensorBoardLogger``; a directory that is not local is taken for one without a layout.
    """
    logger.experiment.flush()
    if not any(LAYOUT_TAG in file.read_bytes() for file in Path(logger.log_dir).glob("*tfevents*")):
        prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""
        logger.experiment.add_custom_scalars(layout(prefix))


def show_structure(
    logger: Any,
    components: Mapping[str, Component],
    parameters: Mapping[str, int],
    log: Sequence[GrowthEvent],
    step: int,
) -> None:
    """Write what the network is made of, and how it grew, on the page of texts.

    Args:
        logger: A ``TensorBoardLogger``.
        components: The components by name, in order of depth.
        parameters: Their numbers of parameters.
        log: The growth log.
        step: The step to write it at.
    """
    logger.experiment.add_text("strata/components", component_table(components, parameters), step)
    if log:
        logger.experiment.add_text("strata/growth", growth_table(log), step)


def growth_table(log: Sequence[GrowthEvent]) -> str:
    """The growth log as a table in Markdown."""
    rows = []
    for event in log:
        what = "<br>".join(f"{kind}: {_code(names)}" for kind, names in event.outcome.items())
        place = [] if event.depth is None else [f"depth {event.depth}"]
        if event.adjacent:
            place.append(f"next to {_code(event.adjacent)}")
        counts = " → ".join(f"{count:,}" for count in event.parameters)
        # one column with spaces that do not break: TensorBoard breaks the words of headings over narrow ones
        when = f"step&nbsp;{event.clock.step}<br>epoch&nbsp;{event.clock.epoch}"
        rows.append([when, what, "<br>".join(place), counts, event.asked_by or ""])
    return _table(["when", "what", "where", "parameters", "asked for by"], rows)


def component_table(components: Mapping[str, Component], parameters: Mapping[str, int]) -> str:
    """The components as a table in Markdown, in order of depth.

    Args:
        components: The components by name.
        parameters: Their numbers of parameters.
    """
    rows = [
        [_code([name]), one.role or "", one.depth, one.born.step, one.born.epoch, f"{parameters[name]:,}"]
        for name, one in components.items()
    ]
    return _table(["component", "role", "depth", "born at step", "in epoch", "parameters"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
