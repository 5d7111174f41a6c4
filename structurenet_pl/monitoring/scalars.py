"""What is written of the learning rates to loggers."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean

from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.monitoring.report import GroupLR

SUMMARIES: Mapping[str, Callable[[Collection[float]], float]] = {"min": min, "mean": fmean, "max": max}


def scalars(
    own: Sequence[GroupLR], every: Sequence[GroupLR], summed_up: bool, frozen: Frozen | None
) -> dict[str, float]:
    """Value by tag.

    Args:
        own: The learning rates of the optimizer that takes the step.
        every: Those of all optimizers.
        summed_up: Whether there are summaries by part of the network in place of curves by component.
        frozen: What is frozen, None if nothing ever is.
    """
    curves: dict[str, dict[str, float]] = {}
    parts: dict[str, list[str]] = {}
    for entry in leading(every if summed_up else own):
        name = entry.title
        parts.setdefault(part_of(entry), []).append(name)
        values = {"lr": entry.lr, "base_lr": entry.base_lr}
        values |= {f"factor/{label}": factor for label, factor in entry.factors.items()}
        values["age"] = entry.age.epoch
        if entry.stratum_number is not None and not summed_up:
            values["stratum"] = entry.stratum_number
        if frozen is not None:
            values["frozen"] = float(entry.frozen)
        for kind, value in values.items():
            curves.setdefault(kind, {})[name] = value
    found = _by_part(curves, parts) if summed_up else _by_component(curves)
    lrs = [entry.lr for entry in leading(every)]
    found |= {f"lr_range/{word}": summary(lrs) for word, summary in SUMMARIES.items() if lrs}
    if frozen is not None:
        found["frozen_share/parameters"] = frozen.parameters
        if frozen.work is not None:
            found["frozen_share/work"] = frozen.work
    return found


def leading(entries: Iterable[GroupLR]) -> list[GroupLR]:
    """Those that speak for their components."""
    return [entry for entry in entries if entry.leads]


def part_of(entry: GroupLR) -> str:
    """What a component is summed up under: its stratum, or else its role, or else ``"others"``."""
    return entry.stratum or entry.component.role or "others"


def mean_lrs(entries: Iterable[GroupLR]) -> dict[str, float]:
    """The mean effective lr of each part of the network."""
    parts: dict[str, list[float]] = {}
    for entry in leading(entries):
        parts.setdefault(part_of(entry), []).append(entry.lr)
    return {part: fmean(lrs) for part, lrs in parts.items()}


def _by_component(curves: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{kind}/{name}": value for kind, values in curves.items() for name, value in values.items()}


def _by_part(curves: Mapping[str, Mapping[str, float]], parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    found: dict[str, float] = {f"components/{part}": len(names) for part, names in parts.items()}
    for kind, values in curves.items():
        for part, names in parts.items():
            known = [values[name] for name in names if name in values]
            found |= {f"{kind}/{part}/{word}": summary(known) for word, summary in SUMMARIES.items() if known}
    return found
