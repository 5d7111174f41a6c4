"""The report: for each block its claims with intervals and verdicts, its arms with their measures, and a figure."""

from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from examples.evidence.experiment import Block
from examples.evidence.figures import draw
from examples.evidence.findings import REFUTED, Finding, find
from examples.evidence.intervals import bonferroni_level, mean_of
from examples.evidence.results import Results


def section(name: str, block: Block, results: Results, found: Sequence[Finding]) -> str:
    """The part of the report on one block, with its findings."""
    lines = [f"## {_title(name)}", "", block.question, ""]
    if found:
        lines += [*_claims_table(found), "", f"![{name}]({name}.png)", ""]
    lines += [f"- `{measure}`: {meaning}" for measure, meaning in block.measures.items()]
    return "\n".join([*lines, "", *_arms_table(block, results), ""])


def _claims_table(found: Sequence[Finding]) -> list[str]:
    level = bonferroni_level(len(found))
    coverage = f"Intervals cover 95 % of all {len(found)} together ({100 * level:.2f} % each, Bonferroni)."
    lines = [
        coverage,
        "",
        "| claim | setting | seeds | estimate | interval | wanted | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in found:
        low, high = finding.estimate.interval(level)
        verdict = finding.verdict(level)
        sign = ">" if finding.claim.above is not None else "<"
        cells = (
            finding.claim.text,
            finding.setting + (f" ({finding.note})" if finding.note else ""),
            str(finding.seeds),
            f"{finding.estimate.value:.3g}",
            f"{low:.3g} to {high:.3g}",
            f"{sign} {finding.bound:g}",
            f"**{verdict}**" if verdict == REFUTED else verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _arms_table(block: Block, results: Results) -> list[str]:
    lines = [
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
    return lines


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
        found = find(block, results)
        parts.append(section(name, block, results, found))
        draw(name, block, results, found, folder / f"{name}.png")
    report = folder / "report.md"
    report.write_text("\n".join(parts))
    return report
