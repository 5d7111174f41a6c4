"""The experiments run, are resumed, and their statistics are right."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from examples.evidence.blocks import BLOCKS
from examples.evidence.data import split
from examples.evidence.experiment import SEARCH_SEEDS, Arm, Block, Claim, Trial
from examples.evidence.findings import find
from examples.evidence.growth_probe import Phase
from examples.evidence.intervals import difference, mean_of, pooled, ratio
from examples.evidence.nets import Net
from examples.evidence.report import section
from examples.evidence.results import Results

ROOT = Path(__file__).parents[2]


def test_interval_of_a_mean():
    values = [1.0, 2.0, 4.0, 4.5]
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_of(values).interval(0.95) == pytest.approx(expected, rel=1e-12)  # two orders of summation


def test_paired_difference():
    ours, others = [1.0, 3.0, 2.0, 5.0], [0.5, 2.0, 2.5, 3.0]
    expected = stats.ttest_rel(ours, others).confidence_interval(0.99)
    assert difference(ours, others).interval(0.99) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_pooled_as_welch():
    first, second = [1.0, 2.0, 4.0, 4.5], [3.0, 3.5, 3.2]
    expected = stats.ttest_ind(first, [-value for value in second], equal_var=False).confidence_interval(0.95)
    low, high = pooled([mean_of(first), mean_of(second)]).interval(0.95)
    assert (2 * low, 2 * high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_ratio_covers():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        shared = generator.normal(10, 2, 8)
        ours, others = shared / 2 + generator.normal(0, 0.5, 8), shared + generator.normal(0, 0.5, 8)
        low, high = ratio(ours, others).interval(0.95)
        inside += low < 0.5 < high
    assert 930 <= inside <= 970  # 950 are expected, with a standard deviation of 7


def test_ratio_is_that_of_the_means():
    estimate = ratio([1.0, 0.0, 2.0], [3.0, 3.0, 3.0])
    assert estimate.value == pytest.approx(1 / 3, rel=1e-12)  # exp(log) rounds
    assert ratio([2.0, 4.0], [1.0, 2.0]).interval(0.95) == pytest.approx((2.0, 2.0), rel=1e-12)


def toy(**changes):
    def train(trial):
        raise NotImplementedError

    arms = {"uniform": Arm((1e-3, 2e-3, 4e-3)), "ours": Arm(lr_of="uniform"), "fixed": Arm((1.0,))}
    fields = {
        "question": "Is it so?",
        "train": train,
        "settings": ("digits",),
        "arms": arms,
        "claims": (Claim("it is more", "accuracy", "ours", "uniform", above=0.0),),
        "measures": {"accuracy": "share"},
        "seeds": range(3),
    }
    return Block(**fields | changes)


def test_other_seeds_are_others_in_the_search_too():
    block, other = toy(), toy().with_seeds(100, 5)
    assert list(other.seeds) == [100, 101, 102, 103, 104]
    assert not {*block.seeds, *block.search_seeds} & {*other.seeds, *other.search_seeds}


def fill(results, block, measure=lambda trial: {}):
    while missing := results.missing(block):
        for trial in missing:
            val = -abs(math.log2(trial.lr / 2e-3))
            results.add(trial, {"val": val, "accuracy": 0.1 * trial.seed + (trial.arm == "ours")} | measure(trial))
    return results


def test_search_comes_first(tmp_path):
    block, results = toy(), Results(tmp_path / "toy.csv")
    first = results.missing(block)
    assert [trial for trial in first if trial.arm == "uniform"] == [
        Trial("digits", "uniform", lr, seed) for lr in (1e-3, 2e-3, 4e-3) for seed in SEARCH_SEEDS
    ]
    assert {trial.arm for trial in first} == {"uniform", "fixed"}
    fill(results, block)
    assert [results.chosen_lr(block, "digits", arm) for arm in block.arms] == [2e-3, 2e-3, 1.0]
    assert not results.at_edge(block, "digits", "uniform")
    assert results.seeds(block, "digits", ["uniform", "ours"]) == [0, 1, 2]


def test_resumed_from_its_file(tmp_path):
    block = toy()
    results = Results(tmp_path / "toy.csv")
    for trial in results.missing(block)[:4]:
        results.add(trial, {"val": 0.123456789, "accuracy": 1.0})
    resumed = Results(tmp_path / "toy.csv")
    assert list(resumed.rows) == list(results.rows)
    assert resumed.missing(block) == results.missing(block)
    fill(resumed, block)
    assert not Results(tmp_path / "toy.csv").missing(block)
    with (tmp_path / "toy.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == len(resumed.rows)


def test_other_measures_in_the_file(tmp_path):
    results = Results(tmp_path / "toy.csv")
    results.add(Trial("digits", "uniform", 1e-3, 0), {"val": 1.0})
    with pytest.raises(ValueError, match="holds other measures"):
        results.add(Trial("digits", "uniform", 1e-3, 1), {"val": 1.0, "drift": 1.0})


def test_edge_is_marked(tmp_path):
    block = toy(arms={"uniform": Arm((2e-3, 4e-3)), "ours": Arm(lr_of="uniform")})
    results = fill(Results(tmp_path / "toy.csv"), block)
    assert results.at_edge(block, "digits", "uniform")
    assert not results.at_edge(block, "digits", "ours")
    assert "0.002 (edge)" in section("toy", block, results, find(block, results))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ({"above": 0.5}, "holds"),
        ({"below": 0.5}, "refuted"),
        ({"above": 1.0}, "undecided"),
        ({"above": 1.5}, "refuted"),
    ],
)
def test_verdicts(tmp_path, claim, verdict):
    # the difference is 1, and more by .1 in one of three seeds
    block = toy(claims=(Claim("text", "accuracy", "ours", "uniform", **claim),))
    results = fill(
        Results(tmp_path / "toy.csv"),
        block,
        lambda trial: {"accuracy": (trial.arm == "ours") * (1.0 + 0.1 * (trial.seed == 1) - 0.05)},
    )
    (finding,) = find(block, results)
    assert finding.verdict(0.95) == verdict


def test_baseline_of_equal_drift(tmp_path):
    uniforms = {"uniform 1": Arm((1.0,)), "uniform 2": Arm((2.0,)), "uniform 4": Arm((4.0,))}
    block = toy(
        arms={**uniforms, "ours": Arm((3.0,))},
        claims=(Claim("faster", "steps", "ours", below=0.0, matched_on=("drift", tuple(uniforms))),),
        measures={"steps": "", "drift": ""},
    )
    # drift equals the lr, and steps are 100 / lr; at drift 3, half of 50 and half of 25 steps
    results = fill(
        Results(tmp_path / "toy.csv"), block, lambda trial: {"drift": trial.lr, "steps": 100 / trial.lr + trial.seed}
    )
    (finding,) = find(block, results)
    assert finding.estimate.value == pytest.approx(100 / 3 - 37.5, rel=1e-4)  # the file keeps six digits
    assert finding.note == "between uniform 2 and uniform 4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": Arm((1.0, 2.0)), "b": Arm((1.0, 2.0, 3.0))}, "claims": ()}, "same number of trials"),
        ({"claims": (Claim("t", "accuracy", "theirs", above=0),)}, "arms that do not exist"),
        ({"claims": (Claim("t", "accuracy", "ours", above=0, settings=("x",)),)}, "settings that do not exist"),
    ],
)
def test_wrong_blocks(change, message):
    with pytest.raises(ValueError, match=message):
        toy(**change)


@pytest.mark.parametrize("arguments", [{}, {"lrs": (1.0,), "lr_of": "x"}, {"lrs": (2.0, 1.0)}])
def test_wrong_arms(arguments):
    with pytest.raises(ValueError, match=r"an arm has either|lrs must ascend"):
        Arm(**arguments)


def test_peak_and_recovery():
    phase = Phase(1.0, {}, {0: 9.0, 1: 8.0, 2: 1.01, 3: 1.5, 4: 1.3, 5: 1.02, 10: 0.9}, length=12)
    assert phase.peak() == 7.0
    assert phase.peak(after=2) == 0.5
    assert phase.recovery() == (2, True)
    assert phase.recovery(after=2) == (5, True)
    assert Phase(1.0, {}, {1: 8.0, 2: 3.0}, length=12).recovery() == (12, False)


def test_splits_are_disjoint_and_paired():
    first, again = split("digits", 3), split("digits", 3)
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, again, strict=True))
    assert sum(len(part.labels) for part in first) == 1797
    assert not torch.equal(first.test.images, split("digits", 4).test.images)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_identity_layer_changes_nothing(kind):
    torch.manual_seed(0)
    net, images = Net(kind, 8, 1e-3), torch.rand(4, 1, 8, 8)
    before = net(images)
    net.add_identity()
    # one matrix product more, with zeros: the order of its sums may differ
    torch.testing.assert_close(net(images), before, rtol=1e-6, atol=1e-6)
    net.add_random()
    assert not torch.allclose(net(images), before)
    net.old_path = True
    assert torch.equal(net(images), before)


def evidence(*arguments):
    command = [sys.executable, "-m", "examples.evidence", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)


@pytest.mark.slow
def test_quick_run_is_resumed(tmp_path):
    stopped = evidence("--quick", "--minutes", 0.2, "--out", tmp_path)
    assert stopped.returncode == 1
    assert "the same command goes on" in stopped.stderr
    done = evidence("--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    tables = {file.stem: file.read_text() for file in tmp_path.glob("*.csv")}
    assert set(tables) == set(BLOCKS)
    report = (tmp_path / "report.md").read_text()
    assert evidence("--quick", "--out", tmp_path).returncode == 0  # nothing is left to run
    assert {file.stem: file.read_text() for file in tmp_path.glob("*.csv")} == tables
    assert (tmp_path / "report.md").read_text() == report


def test_wrong_arguments(tmp_path):
    assert "no such blocks: unknown" in evidence("--blocks", "unknown").stderr
    assert "--out FOLDER" in evidence("--quick").stderr
