"""One figure for each block: its arms on two measures, or the intervals of its claims."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.evidence.experiment import Block
from examples.evidence.findings import HOLDS, REFUTED, UNDECIDED, Finding
from examples.evidence.intervals import bonferroni_level, mean_of
from examples.evidence.results import Results

COLUMNS = 4
LEGEND_LINE = 0.23  # inches
COLOR_OF_VERDICT = {HOLDS: "C0", UNDECIDED: "0.55", REFUTED: "C3"}


def draw(name: str, block: Block, results: Results, found: Sequence[Finding], file: Path) -> None:
    """Draw the figure, if there is something to draw."""
    if block.axes:
        figure = frontier(block, results)
    elif found:
        figure = forest(found)
    else:
        return
    figure.suptitle(name.replace("_", " "))
    figure.savefig(file, dpi=80)


def frontier(block: Block, results: Results) -> Figure:
    """One panel for each setting: the mean of each arm on two measures, with 95 % intervals from four seeds on."""
    settings = [
        name for name in block.settings if any(len(results.seeds(block, name, [arm])) > 1 for arm in block.arms)
    ]
    columns = min(COLUMNS, max(1, len(settings)))
    rows = max(1, math.ceil(len(settings) / columns))
    height = max(3.4 * rows + 0.4, LEGEND_LINE * len(block.arms) + 0.5)
    figure = Figure(figsize=(4 * columns + 2.5, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles = {}
    for panel, setting in zip(panels, settings, strict=False):
        for number, arm in enumerate(block.arms):
            seeds = results.seeds(block, setting, [arm])
            if len(seeds) < 2:
                continue
            points = [mean_of(results.by_seed(block, setting, arm, measure, seeds)) for measure in block.axes]
            # intervals from two or three seeds would cover the whole panel
            errors = [point.interval(0.95)[1] - point.value if len(seeds) > 3 else 0.0 for point in points]
            handles[arm] = panel.errorbar(
                *([point.value] for point in points),
                *([error] for error in errors[::-1]),
                marker="osD^vP*X<>"[number // 10 % 10] if len(block.arms) > 10 else "o",
                color=f"C{number % 10}",
                linewidth=1,
                label=arm,
            )
        panel.set(title=setting, xlabel=block.axes[0], ylabel=block.axes[1])
        panel.grid(alpha=0.3)
    for panel in panels[len(settings) :]:
        panel.set_visible(False)
    if handles:
        figure.legend(handles.values(), handles, loc="outside right upper")
    return figure


def forest(found: Sequence[Finding]) -> Figure:
    """The interval of each claim in each setting, coloured by the verdict, with the bound as a tick."""
    claims = list(dict.fromkeys(finding.claim for finding in found))
    level = bonferroni_level(len(found))
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(found) + 0.7 * len(claims)), layout="constrained")
    sizes = [sum(finding.claim is claim for finding in found) for claim in claims]
    panels = figure.subplots(len(claims), 1, squeeze=False, height_ratios=[size + 1 for size in sizes]).flat
    for panel, claim in zip(panels, claims, strict=True):
        shown = [finding for finding in found if finding.claim is claim]
        for place, finding in enumerate(reversed(shown)):
            low, high = finding.estimate.interval(level)
            color = COLOR_OF_VERDICT[finding.verdict(level)]
            panel.plot([low, high], [place, place], color=color)
            panel.plot(finding.estimate.value, place, "o", color=color)
            panel.plot(finding.bound, place, "|", color="0.2", markersize=14)
        panel.set_yticks(range(len(shown)), [finding.setting for finding in reversed(shown)])
        panel.set_title(claim.text, fontsize=10, loc="left")
        kind = "ratio" if claim.ratio else "difference" if claim.others else "value"
        panel.set_xlabel(f"{claim.measure}: {kind}", fontsize=8)
        panel.margins(y=0.6 / len(shown) + 0.1)
        panel.grid(alpha=0.3, axis="x")
    handles = [Line2D([], [], color=color, marker="o", label=verdict) for verdict, color in COLOR_OF_VERDICT.items()]
    handles.append(Line2D([], [], color="0.2", marker="|", markersize=14, linestyle="", label="bound"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure
