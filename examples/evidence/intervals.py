"""Intervals of means, differences and ratios that are paired by seed, for one setting and for the mean over several."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and degrees of freedom, on a logarithmic scale for ratios."""

    mean: float
    error: float
    freedom: float
    log: bool = False

    def interval(self, level: float) -> tuple[float, float]:
        """Student's interval; ``level`` is its coverage, such as 0.95."""
        half = self.error * t.ppf((1 + level) / 2, self.freedom) if self.error else 0.0
        low, high = self.mean - half, self.mean + half
        return (math.exp(low), math.exp(high)) if self.log else (low, high)

    @property
    def value(self) -> float:
        """The estimate itself."""
        return math.exp(self.mean) if self.log else self.mean


def bonferroni_level(count: int) -> float:
    """The level at which so many intervals cover their true values together with 95 %."""
    return 1 - 0.05 / count


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of at least two values."""
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)), len(values) - 1)


def difference(ours: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of the paired differences."""
    return mean_of([one - other for one, other in zip(ours, others, strict=True)])


def ratio(ours: Sequence[float], others: Sequence[float]) -> Estimate:
    r"""The ratio of the means, by the delta method on its logarithm.

    .. math:: \log \bar a - \log \bar b, \qquad s^2 = \frac{1}{n} \mathrm{Var}\left(a_i / \bar a - b_i / \bar b\right)
    """
    mean, other = fmean(ours), fmean(others)
    pairs = mean_of([one / mean - two / other for one, two in zip(ours, others, strict=True)])
    return Estimate(math.log(mean / other), pairs.error, pairs.freedom, log=True)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over settings, for ratios the geometric mean, each with the same weight.

    The degrees of freedom are those of Welch and Satterthwaite.
    """
    variances = [estimate.error**2 for estimate in estimates]
    total = sum(variances)
    shares = sum(variance**2 / one.freedom for variance, one in zip(variances, estimates, strict=True))
    freedom = total**2 / shares if shares else min(one.freedom for one in estimates)
    mean = fmean(estimate.mean for estimate in estimates)
    return Estimate(mean, math.sqrt(total) / len(estimates), freedom, estimates[0].log)
