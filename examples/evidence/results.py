"""The rows of a block: one CSV file, to which each finished trial is appended, so that a run can be resumed."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from examples.evidence.experiment import Block, Trial


class Results:
    """Measures by trial, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[Trial, dict[str, float]] = {}
        if file.exists():
            with file.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    key = Trial(row.pop("setting"), row.pop("arm"), float(row.pop("lr")), int(row.pop("seed")))
                    self.rows[key] = {name: float(value) for name, value in row.items()}

    def add(self, trial: Trial, measures: Mapping[str, float]) -> None:
        """Append a row to the file.

        Raises:
            ValueError: If the file holds other measures.
        """
        new = not self.file.exists()
        # as in the file: a choice between two lrs that are nearly equal must not be another one after a resume
        values = {name: float(f"{value:.6g}") for name, value in sorted(measures.items())}
        names = list(values)
        if self.rows and names != sorted(next(iter(self.rows.values()))):
            raise ValueError(f"{self.file} holds other measures than {names}: move it away, or delete it")
        with self.file.open("a", newline="") as lines:
            writer = csv.writer(lines)
            if new:
                writer.writerow([*Trial._fields, *names])
            writer.writerow([*trial, *(f"{value:.6g}" for value in values.values())])
        self.rows[trial] = values

    def chosen_lr(self, block: Block, setting: str, arm: str) -> float | None:
        """The lr with the best mean on validation data over the search seeds; None while some of these are missing."""
        lrs, lr_of = block.arms[arm].lrs, block.arms[arm].lr_of
        if lr_of is not None:
            return self.chosen_lr(block, setting, lr_of)
        if len(lrs) == 1:
            return lrs[0]
        means = {}
        for lr in lrs:
            rows = [self.rows.get(Trial(setting, arm, lr, seed)) for seed in block.search_seeds]
            if None in rows:
                return None
            means[lr] = fmean(row["val"] for row in rows)
        return max(means, key=means.get)

    def at_edge(self, block: Block, setting: str, arm: str) -> bool:
        """Whether the chosen lr is the first or the last of the search space: a better one may lie outside."""
        lrs = block.arms[arm].lrs
        return block.arms[arm].searched and self.chosen_lr(block, setting, arm) in (lrs[0], lrs[-1])

    def missing(self, block: Block) -> list[Trial]:
        """Trials that can be run now: all of the search, and the rest of those arms whose lr is chosen."""
        trials = [
            Trial(setting, name, lr, seed)
            for setting in block.settings
            for name, arm in block.arms.items()
            if arm.searched
            for lr in arm.lrs
            for seed in block.search_seeds
        ]
        trials += [
            Trial(setting, name, lr, seed)
            for seed in block.seeds
            for setting in block.settings
            for name in block.arms
            if (lr := self.chosen_lr(block, setting, name)) is not None
        ]
        return [trial for trial in trials if trial not in self.rows]

    def by_seed(self, block: Block, setting: str, arm: str, measure: str, seeds: Sequence[int]) -> list[float]:
        """Values of one measure at the chosen lr."""
        lr = self.chosen_lr(block, setting, arm)
        return [self.rows[Trial(setting, arm, lr, seed)][measure] for seed in seeds]

    def seeds(self, block: Block, setting: str, arms: Iterable[str]) -> list[int]:
        """Seeds for which all of these arms have run, so that they can be paired."""
        lrs = {arm: self.chosen_lr(block, setting, arm) for arm in arms}
        return [
            seed for seed in block.seeds if all(Trial(setting, arm, lr, seed) in self.rows for arm, lr in lrs.items())
        ]
