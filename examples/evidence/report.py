"""The report: for each block its claims with intervals and verdicts, its arms with their measures, and a figure."""

from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from examples.evidence.experiment import Block, Claim
from examples.evidence.figures import draw
from examples.evidence.intervals import Estimate, difference, mean_of, pooled, ratio
from examples.evidence.results import Results


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
            return "holds"
        return "undecided" if low <= self.bound <= high else "**refuted**"


def findings(block: Block, results: Results) -> list[Finding]:
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
    others = claim.equal[1] if claim.equal else (claim.baseline,) if claim.baseline else ()
    seeds = results.seeds(block, setting, [claim.arm, *others])
    if len(seeds) < 2:
        return None

    def values(arm: str, measure: str = claim.measure) -> list[float]:
        return results.by_seed(block, setting, arm, measure, seeds)

    bound, note, ours = claim.bound if claim.each is None else claim.each, "", values(claim.arm)
    if claim.equal:
        measure, arms = claim.equal
        baseline, note = _interpolated(fmean(values(claim.arm, measure)), arms, measure, values, claim.measure)
    elif claim.baseline:
        baseline = values(claim.baseline)
    else:
        return Finding(claim, setting, mean_of(ours), bound, len(seeds))
    compared = (ratio if claim.ratio else difference)(ours, [claim.share * value for value in baseline])
    return Finding(claim, setting, compared, bound, len(seeds), note)


def _interpolated(target, arms, measure, values, wanted) -> tuple[list[float], str]:
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


def section(name: str, block: Block, results: Results, found: Sequence[Finding]) -> str:
    """The part of the report on one block, with its findings."""
    level = 1 - 0.05 / max(1, len(found))
    lines = [f"## {_title(name)}", "", block.question, ""]
    if found:
        kind = f"Intervals cover 95 % of all {len(found)} together ({100 * level:.2f} % each, Bonferroni)."
        lines += [
            kind,
            "",
            "| claim | setting | seeds | estimate | interval | wanted | verdict |",
            "|---|---|---|---|---|---|---|",
        ]
        for finding in found:
            low, high = finding.estimate.interval(level)
            sign = ">" if finding.claim.above is not None else "<"
            cells = (
                finding.claim.text,
                finding.setting + (f" ({finding.note})" if finding.note else ""),
                str(finding.seeds),
                f"{finding.estimate.value:.3g}",
                f"{low:.3g} to {high:.3g}",
                f"{sign} {finding.bound:g}",
                finding.verdict(level),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"![{name}]({name}.png)", ""]
    lines += [f"- `{measure}`: {meaning}" for measure, meaning in block.measures.items()]
    lines += [
        "",
        f"| setting | arm | lr | seeds | {' | '.join(block.measures)} |",
        "|---" * (4 + len(block.measures)) + "|",
    ]
    edges = 0
    for setting in block.settings:
        for arm in block.arms:
            seeds = results.seeds(block, setting, [arm])
            if len(seeds) > 1:
                edge = results.at_edge(block, setting, arm)
                edges += edge
                lr = f"{results.chosen_lr(block, setting, arm):g}" + (" (edge)" if edge else "")
                cells = [_mean(results.by_seed(block, setting, arm, measure, seeds)) for measure in block.measures]
                lines.append(f"| {setting} | {arm} | {lr} | {len(seeds)} | {' | '.join(cells)} |")
    if edges:
        lines += ["", f"{edges} chosen lrs lie at the edge of their search space: a better one may lie outside."]
    return "\n".join([*lines, ""])


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _mean(values: list[float]) -> str:
    estimate = mean_of(values)
    return f"{estimate.value:.3g} ± {estimate.interval(0.95)[1] - estimate.value:.2g}"


def write(blocks: Mapping[str, Block], folder: Path) -> Path:
    """Write the report and a figure for each block; return the file."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("structurenet-pl", "torch", "lightning"))
    parts = [
        "# What each strategy does on real data",
        "",
        f"Written by `python -m examples.evidence` on {date.today()} ({packages}, CPU). How it is measured: "
        "`examples/evidence/__init__.py`. ± is a 95 % interval of one mean, over seeds.",
        "",
    ]
    for name, block in blocks.items():
        results = Results(folder / f"{name}.csv")
        if not results.rows:
            parts.append(f"## {_title(name)}\n\n{block.question}\n\nNot run yet.\n")
            continue
        found = findings(block, results)
        parts.append(section(name, block, results, found))
        draw(name, block, results, found, folder / f"{name}.png")
    report = folder / "report.md"
    report.write_text("\n".join(parts))
    return report
