"""What is tried and what is claimed: arms with their search spaces, trials, claims, and a block that holds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

SEARCH_SEEDS = range(1000, 1003)


class Trial(NamedTuple):
    """One training run, and the key of its row in the results."""

    setting: str
    arm: str
    lr: float
    seed: int


@dataclass(frozen=True)
class Arm:
    """One way to train, with the base lrs that are tried for it.

    Args:
        lrs: Search space of the base lr, ascending. One lr alone is not searched.
        lr_of: Name of another arm, whose chosen lr this arm gets, untuned.
    """

    lrs: tuple[float, ...] = ()
    lr_of: str | None = None

    def __post_init__(self) -> None:
        if bool(self.lrs) == (self.lr_of is not None):
            raise ValueError("an arm has either lrs to search or the lr of another arm")
        if list(self.lrs) != sorted(set(self.lrs)):
            raise ValueError(f"lrs must ascend, got {self.lrs}")

    @property
    def searched(self) -> bool:
        """Whether the lr is chosen among several."""
        return len(self.lrs) > 1


@dataclass(frozen=True)
class Claim:
    """A statement on one measure of two arms, which holds if the whole interval lies on the right side of the bound.

    Args:
        text: The statement, as the report prints it.
        measure: Name of the measure.
        arm: Name of the arm that the statement is about.
        baseline: Name of the arm that it is compared with; None compares the measure itself with the bound.
        above: Lower bound of the difference.
        below: Upper bound of the difference, or of the ratio.
        ratio: Compare the ratio of the means in place of their difference.
        share: The baseline is multiplied by this first: a ratio for measures that may be 0, with a bound of 0.
        matched_on: Name of a measure, and names of arms: the baseline is interpolated between the two of them whose
            means of this measure are next to that of the arm, so that both are equal in it.
        settings: Names of settings; all if empty.
        each: Bound for every setting alone, next to that of the mean over settings. None asks each setting for the
            same as the mean.
    """

    text: str
    measure: str
    arm: str
    baseline: str | None = None
    above: float | None = None
    below: float | None = None
    ratio: bool = False
    share: float = 1.0
    matched_on: tuple[str, tuple[str, ...]] | None = None
    settings: tuple[str, ...] = ()
    each: float | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"a claim has one bound, above or below: {self.text}")

    @property
    def bound(self) -> float:
        """The bound for the mean over settings."""
        return self.above if self.above is not None else self.below

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the arms that the arm is compared with."""
        if self.matched_on:
            return self.matched_on[1]
        return (self.baseline,) if self.baseline else ()

    def holds(self, low: float, high: float, bound: float) -> bool:
        """Whether an interval lies on the right side."""
        return low > bound if self.above is not None else high < bound


def better(text: str, arm: str, baseline: str) -> Claim:
    """The claim that an arm has a higher accuracy than another one."""
    return Claim(text, "accuracy", arm, baseline, above=0.0)


@dataclass(frozen=True)
class Block:
    """One experiment.

    Args:
        question: What it asks, as the report prints it.
        train: Returns the measures of a trial by name. ``"val"`` is what lrs are chosen by, higher is better.
        settings: Names of settings (data, network, schedule); the first is the one of a quick run.
        arms: Arms by name. All that are searched must have equally many lrs.
        claims: What the report tests. Claims are written before the full run; ``examples/evidence/__init__.py`` lists
            the exceptions.
        measures: Names of the measures that the report prints, with what they mean.
        axes: Two measures to draw against each other; None draws the intervals of the claims only.
        seeds: Seeds of the full run.
        search_seeds: Seeds for the choice of learning rates; no result is reported on them.
    """

    question: str
    train: Callable[[Trial], Mapping[str, float]]
    settings: tuple[str, ...]
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...]
    measures: Mapping[str, str]
    axes: tuple[str, str] | None = None
    seeds: range = range(8)
    search_seeds: range = SEARCH_SEEDS

    def __post_init__(self) -> None:
        if len({len(arm.lrs) for arm in self.arms.values() if arm.searched}) > 1:
            raise ValueError("every arm that is searched must have the same number of trials")
        for claim in self.claims:
            if missing := {claim.arm, *claim.others} - set(self.arms):
                raise ValueError(f"claim {claim.text!r} is about arms that do not exist: {sorted(missing)}")
            if missing := set(claim.settings) - set(self.settings):
                raise ValueError(f"claim {claim.text!r} is about settings that do not exist: {sorted(missing)}")

    def with_seeds(self, first: int, count: int) -> "Block":
        """The same with so many seeds, from another one on, and with other seeds for the search."""
        search = self.search_seeds
        return replace(
            self, seeds=range(first, first + count), search_seeds=range(first + search.start, first + search.stop)
        )

    def quick(self) -> "Block":
        """The same with one setting and two seeds; the first arm that is searched has three lrs, the others one."""
        first = next((name for name, arm in self.arms.items() if arm.searched), None)
        return replace(
            self,
            settings=self.settings[:1],
            arms={
                name: replace(arm, lrs=_middle(arm.lrs, 3 if name == first else 1)) for name, arm in self.arms.items()
            },
            claims=tuple(
                replace(claim, settings=())
                for claim in self.claims
                if not claim.settings or self.settings[0] in claim.settings
            ),
            seeds=range(2),
            search_seeds=self.search_seeds[:1],
        )


def _middle(lrs: tuple[float, ...], count: int) -> tuple[float, ...]:
    start = max(0, (len(lrs) - count) // 2)
    return lrs[start : start + count]
