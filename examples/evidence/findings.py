"""What the results say on each claim of a block: an interval in each setting, and one for the mean over settings."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from examples.evidence.experiment import Block, Claim
from examples.evidence.intervals import Estimate, difference, mean_of, pooled, ratio
from examples.evidence.results import Results

HOLDS, UNDECIDED, REFUTED = "holds", "undecided", "refuted"


class Finding(NamedTuple):
    """One interval: a claim in one setting, or for the mean over all."""

    claim: Claim
    setting: str
    estimate: Estimate
    bound: float
    seeds: int
    note: str = ""

    def verdict(self, level: float) -> str:
        """What the interval at this level says."""
        low, high = self.estimate.interval(level)
        if self.claim.holds(low, high, self.bound):
            return HOLDS
        return UNDECIDED if low <= self.bound <= high else REFUTED


def find(block: Block, results: Results) -> list[Finding]:
    """All intervals of a block, without settings for which not two seeds are there."""
    found = []
    for claim in block.claims:
        one = [
            finding
            for setting in claim.settings or block.settings
            if (finding := _in_setting(block, results, claim, setting)) is not None
        ]
        if len(one) > 1:
            estimate = pooled([finding.estimate for finding in one])
            found.append(Finding(claim, f"mean of {len(one)}", estimate, claim.bound, min(f.seeds for f in one)))
        found += one
    return found


def _in_setting(block: Block, results: Results, claim: Claim, setting: str) -> Finding | None:
    seeds = results.seeds(block, setting, [claim.arm, *claim.others])
    if len(seeds) < 2:
        return None

    def values(arm: str, measure: str = claim.measure) -> list[float]:
        return results.by_seed(block, setting, arm, measure, seeds)

    bound, note, ours = claim.bound if claim.each is None else claim.each, "", values(claim.arm)
    if claim.matched_on:
        measure, arms = claim.matched_on
        baseline, note = _interpolated(fmean(values(claim.arm, measure)), arms, measure, values, claim.measure)
    elif claim.baseline:
        baseline = values(claim.baseline)
    else:
        return Finding(claim, setting, mean_of(ours), bound, len(seeds))
    compared = (ratio if claim.ratio else difference)(ours, [claim.share * value for value in baseline])
    return Finding(claim, setting, compared, bound, len(seeds), note)


def _interpolated(
    target: float,
    arms: Sequence[str],
    measure: str,
    values: Callable[[str, str], list[float]],
    wanted: str,
) -> tuple[list[float], str]:
    """The wanted measure by seed, between the two arms around the target; at the end of the range, that of one arm."""
    ordered = sorted((fmean(values(arm, measure)), arm) for arm in arms)
    below = [pair for pair in ordered if pair[0] <= target]
    above = [pair for pair in ordered if pair[0] > target]
    if not below or not above:
        at, arm = ordered[-1] if below else ordered[0]
        return values(arm, wanted), f"against {arm}: {measure} {at:.3g}, wanted {target:.3g}"
    (low, first), (high, second) = below[-1], above[0]
    share = (target - low) / (high - low)
    mixed = [one + share * (two - one) for one, two in zip(values(first, wanted), values(second, wanted), strict=True)]
    return mixed, f"between {first} and {second}"
