"""Rows of the log: what is written of the learning rates at one step."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.events import Component
from structurenet_pl.looking.rates import Reading, decay_of

SUMMARIES: Mapping[str, Callable[[Collection[float]], float]] = {"min": min, "mean": fmean, "max": max}


@dataclass(frozen=True)
class Row:
    """What is written of one step.

    Args:
        step: Optimizer steps before it.
        scalars: Value by tag.
        lrs: Effective lr of every component of the network that an optimizer trains.
        frozen: Names of the components that were frozen.
    """

    step: int
    scalars: Mapping[str, float]
    lrs: Mapping[str, float]
    frozen: frozenset[str]


def make_row(
    step: int, readings: Sequence[Reading], strata: Sequence[SedimentaryDecay], most: int, freezes: bool
) -> Row:
    """Spell out what has been read.

    Args:
        step: Optimizer steps before this one.
        readings: The last of each optimizer, that of the one which takes the step in the end.
        strata: The callbacks that say what stratum a component has reached.
        most: Number of components above which there are summaries by stratum in place of curves by component.
        freezes: Whether anything can be frozen.
    """
    own = readings[-1]
    summed_up = len(own.components) > most
    lrs = {
        component.name: float(reading.rates.lrs[group])
        for reading in readings
        for component, group in reading.leading()
    }
    curves: dict[str, dict[str, float]] = {}
    parts: dict[str, list[str]] = {}
    for reading in readings if summed_up else [own]:
        for component, group in reading.leading():
            name = component.name
            if summed_up:
                parts.setdefault(part_of(component, reading, strata), []).append(name)
            values = {"lr": lrs[name], "base_lr": float(reading.rates.bases[group])}
            values |= {
                f"factor/{label}": float(factor) for label, factor in reading.rates.factors.get(group, {}).items()
            }
            values["age"] = reading.now.age(component).epoch
            decay = decay_of(component, strata)
            number = decay.stratum_number(component, reading.now) if decay else None
            if number is not None and not summed_up:
                values["stratum"] = number
            if freezes:
                values["frozen"] = float(name in own.frozen.components)
            for kind, value in values.items():
                curves.setdefault(kind, {})[name] = value
    scalars = _by_part(curves, parts) if summed_up else _by_component(curves)
    scalars |= {f"lr_range/{word}": summary(lrs.values()) for word, summary in SUMMARIES.items() if lrs}
    if freezes:
        scalars["frozen_share/parameters"] = own.frozen.parameters
        if own.frozen.work is not None:
            scalars["frozen_share/work"] = own.frozen.work
    return Row(step, scalars, lrs, own.frozen.components)


def part_of(component: Component, reading: Reading, strata: Sequence[SedimentaryDecay]) -> str:
    """What a component is summed up under: its stratum, or else its role, or else ``"others"``."""
    decay = decay_of(component, strata)
    return (decay.stratum(component, reading.now) if decay else component.role) or "others"


def mean_lrs(readings: Iterable[Reading], strata: Sequence[SedimentaryDecay]) -> dict[str, float]:
    """The mean effective lr of each part of the network."""
    parts: dict[str, list[float]] = {}
    for reading in readings:
        for component, group in reading.leading():
            parts.setdefault(part_of(component, reading, strata), []).append(float(reading.rates.lrs[group]))
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
