"""What all rows share: how two sides are timed, how a figure is made of the times, and how a table is written."""

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

Samples = dict[str, list[float]]  # seconds by round, by name of the side

PEERS = ("pytorch_optimizer", "pytorch_warmup", "tensorboard")


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1) -> Samples:
    """CPU times of one call of each side, by round; in every second round the order is reversed."""
    samples: Samples = {name: [] for name in sides}
    for name in sides:
        sides[name]()  # warm up
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            samples[name].append(seconds(sides[name], calls))
    return samples


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """CPU time of one call."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def by_round(steps: Sequence[float], rounds: int, share: float = 0.5) -> list[float]:
    """Medians of equal parts of many steps: a difference of two single steps would be mostly noise.

    Args:
        steps: Seconds of each step.
        rounds: Number of parts.
        share: Share of the steps that is faster than the result, 0.5 for the median.
    """
    size = len(steps) // rounds
    return [sorted(steps[size * number : size * (number + 1)])[int(share * size)] for number in range(rounds)]


def less(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """Differences by round."""
    return [one - other for one, other in zip(times, others, strict=True)]


@dataclass(frozen=True)
class Figure:
    """What was measured for one size of a row: the median over rounds, the range, and both sides in seconds."""

    size: int
    goal: float | None
    values: list[float]
    ours: float
    reference: float | None
    peers: dict[str, float]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        if self.reference is not None and self.reference <= 0:
            return "lost in noise"  # the floor was as slow as the reference
        return "-" if self.goal is None else "met" if self.value <= self.goal else "**missed**"


@dataclass(frozen=True)
class Row:
    """One row of the table: lower is better, everywhere.

    The figure is ``(ours - floor) / (reference - floor)`` in each round; sides named otherwise are peers and take the
    place of ``ours``. Without a floor nothing is subtracted, without a reference the figure is a time in seconds.
    """

    name: str
    work: str
    of: str  # what the sizes count
    goals: Mapping[int, float | None]  # by size
    measure: Callable[[int, int], Samples]  # of a size, for a number of rounds
    rounds: int = 9

    def figures(self, quick: bool) -> Iterator[Figure]:
        """Measure each size, or in a quick check the smallest."""
        for size in [min(self.goals)] if quick else self.goals:
            gc.collect()
            samples = self.measure(size, 2 if quick else self.rounds)
            floors = samples.pop("floor", [0.0] * len(samples["ours"]))
            added = {name: less(times, floors) for name, times in samples.items()}
            reference = added.pop("reference", None)
            ratios = {
                name: times if reference is None else [t / r for t, r in zip(times, reference, strict=True)]
                for name, times in added.items()
            }
            values = ratios.pop("ours")
            yield Figure(
                size,
                self.goals[size],
                values,
                median(added["ours"]),
                None if reference is None else median(reference),
                {name: median(of_peer) for name, of_peer in ratios.items()},
            )

    def line(self, figure: Figure) -> str:
        """A line of the table."""
        is_time = figure.reference is None
        show = in_seconds if is_time else in_digits
        low, high = min(figure.values), max(figure.values)
        peers = ", ".join(f"{name} {show(value)}" for name, value in figure.peers.items())
        cells = [
            f"`{self.name}` {self.work}",
            f"{figure.size} {self.of}",
            "-" if figure.goal is None else show(figure.goal),
            f"{show(figure.value)} [{show(low)} to {show(high)}]",
            figure.verdict,
            in_seconds(figure.ours),
            "-" if figure.reference is None else in_seconds(figure.reference),
            peers or "-",
        ]
        return f"| {' | '.join(cells)} |"


HEADER = """\
| row | size | goal | measured [range] | | ours | against | peers |
|---|---|---|---|---|---|---|---|"""


def circumstances() -> str:
    """Date, machine, versions and load, for the line above the table."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown CPU")
    versions = []
    for name in ("torch", "numpy", "lightning", "structurenet-pl", *PEERS):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return (
        f"{date.today()}, {os.cpu_count()} cores of {cpu} ({platform.machine()}), {platform.system()}, "
        f"load {os.getloadavg()[0]:.1f}, threads of torch: {torch.get_num_threads()}; "
        f"Python {platform.python_version()}, {', '.join(versions)}. CPU time; medians of ratios of rounds in which "
        "all sides take turns, with the range. Lower is better."
    )


def in_digits(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def in_seconds(value: float) -> str:
    """Seconds, milliseconds or microseconds."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if abs(value) * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
