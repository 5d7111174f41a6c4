"""The verdict on newborns, in networks whose gradients are numbers that the test chooses."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from helpers import fit, texts
from recorders import OwnLogger
from structurenet_pl import GrowEvery, GrowthMixin, RoleLR, StrataMonitor, growth
from structurenet_pl.learning_rates.norms import StepNorms

SLOPES = {"body.0": 2.0, "body.1": 1.0, "head": 3.0, "patches.0": 0.5, "patches.1": 0.0}
quiet = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")


class Slopes(GrowthMixin, LightningModule):
    """Its loss is linear in the weights; the slope of newborn weights rises with each step."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 4, bias=False))
        self.patches = nn.ModuleList()
        self.head = nn.Linear(4, 2, bias=False)
        self.old_rows = 4

    @growth(role="patch", depth="at")
    def add_patch(self, at: int):
        self.patches.append(nn.Linear(2, 5, bias=False))

    @growth(role="patch")
    def widen(self, rows: int):
        weight = self.body[1].weight
        self.body[1].weight = nn.Parameter(torch.cat([weight.detach(), torch.ones(rows, 3)]))

    def training_step(self, batch, batch_idx):
        step = self.trainer.global_step
        loss = 0.0
        for name, component in self.components.items():
            (weight,) = self.get_submodule(name).parameters()
            if name == "body.1":  # rows that widening adds have a slope of 5
                loss = loss + SLOPES[name] * weight[: self.old_rows].sum() + 5.0 * weight[self.old_rows :].sum()
            else:
                loss = loss + SLOPES[name] * (1 + step if component.born.generation else 1) * weight.sum()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def rms(*values):
    return math.sqrt(sum(value**2 for value in values) / len(values))


def printed(capsys):
    """What was printed, without line breaks."""
    return " ".join(capsys.readouterr().out.split())


def rows_of(logger):
    return {step: row for step, row in logger.rows if any(tag.startswith("newborn/") for tag in row)}


def patch(**options):
    return GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}, **options)


def test_shares_of_a_new_component(capsys):
    logger, board = OwnLogger(), TensorBoardLogger("logs", name=None)
    callbacks = [patch(), RoleLR({"patch": 0.1}), StrataMonitor(norms=True)]
    net = fit(Slopes(), callbacks, epochs=5, logger=[logger, board], log_every_n_steps=3).lightning_module
    assert net.growth_log[0].adjacent == ("body.0", "body.1")
    rows = rows_of(logger)
    # born before step 4; the step after birth is logged, then each third one
    assert list(rows) == [4, 5, 8, 11, 14, 17]
    neighbours = rms(*[2.0] * 6, *[1.0] * 12)
    for number, (step, row) in enumerate(rows.items(), 1):
        own = rms(*(0.5 * (1 + logged) for logged in list(rows)[:number]))
        assert row["newborn/grad/patches.0"] == pytest.approx(own / neighbours, rel=1e-6)  # gradients are float32
        # the update of a weight is a difference of two weights near 1
        assert row["newborn/update/patches.0"] == pytest.approx(0.1 * own / neighbours, rel=1e-4), step
    # 0.5 * rms(5, 6, 9, 12, 15, 18) / 2 ** 0.5
    line = "patches.0 (born at step 4): 417 % of the gradient and 42 % of the update per weight of its neighbours"
    told = printed(capsys)
    assert told.count("patches.0 (born") == told.count(f"{line} over 6 logged steps") == 1
    assert texts(board.log_dir)["strata/newborns"][-1].splitlines()[2:] == [
        "| `patches.0` | 4 | neighbours | 417 % | 42 % | 6 |"
    ]


@quiet
def test_the_verdict_comes_after_ten_logged_steps():
    logger = OwnLogger()
    fit(Slopes(), [patch(unit="step"), StrataMonitor(norms=True)], epochs=4, logger=logger, log_every_n_steps=1)
    assert list(rows_of(logger)) == list(range(1, 11))


def test_shares_of_entries_that_widening_added(capsys):
    logger = OwnLogger()
    wider = GrowEvery("widen", 1, limit=1, arguments={"rows": 2})
    callbacks = [wider, RoleLR({"patch": 0.1}), StrataMonitor(norms=True)]
    fit(Slopes(), callbacks, epochs=2, logger=logger, log_every_n_steps=2)
    rows = rows_of(logger)
    assert list(rows) == [4, 5, 7]
    for row in rows.values():
        assert row["newborn/grad/body.1@1"] == pytest.approx(5.0)
        assert row["newborn/update/body.1@1"] == pytest.approx(0.5, rel=1e-4)
    line = "body.1@1 (born at step 4): 500 % of the gradient and 50 % of the update per weight of the older entries of"
    assert f"{line} body.1 over 3 logged steps" in printed(capsys)


def test_a_newborn_without_gradient_and_one_without_a_neighbour_that_has_one(capsys):
    class Partly(Slopes):
        def __init__(self):
            super().__init__()
            self.body.requires_grad_(False)

    logger = OwnLogger()
    twice = GrowEvery("add_patch", 1, limit=2, arguments={"at": 0})
    fit(Partly(), [twice, StrataMonitor(norms=True)], epochs=3, logger=logger, log_every_n_steps=4)
    told = printed(capsys)
    assert "patches.0 (born at step 4): an unknown share of the gradient and an unknown share of the" in told
    assert "patches.1 (born at step 8): 0 % of the gradient and 0 % of the update per weight of its" in told
    tags = {tag for row in rows_of(logger).values() for tag in row if tag.startswith("newborn/")}
    assert tags == {"newborn/grad/patches.1", "newborn/update/patches.1"}
    assert rows_of(logger)[8]["newborn/grad/patches.1"] == 0


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # of the run that was stopped
@pytest.mark.parametrize("at", [2, 3])
def test_a_resumed_run_passes_the_same_verdict(at, capsys):
    def train(name, epochs, ckpt_path=None):
        logger, keep = OwnLogger(), ModelCheckpoint("checkpoints", f"{name}-{epochs}")
        torch.manual_seed(1)
        callbacks = [patch(), GrowEvery("widen", 2, limit=1, arguments={"rows": 2}), StrataMonitor(norms=True), keep]
        options = {"logger": logger, "log_every_n_steps": 3, "enable_checkpointing": True, "ckpt_path": ckpt_path}
        fit(Slopes(), callbacks, epochs=epochs, **options)
        return rows_of(logger), keep.best_model_path

    whole, _ = train("whole", 6)
    printed(capsys)
    first, path = train("parts", at)
    assert " logged steps" in printed(capsys)
    second, _ = train("parts", 6, path)
    assert first | second == whole
    assert not first.keys() & second.keys()


def test_steps_that_are_not_logged_cost_nothing(monkeypatch):
    measured, monitor = [], StrataMonitor(norms=True)
    begin = StepNorms.__init__
    monkeypatch.setattr(StepNorms, "__init__", lambda self, parts: measured.append(list(parts)) or begin(self, parts))
    fit(Slopes(), [patch(), monitor], epochs=16, logger=OwnLogger(), log_every_n_steps=5)
    # the first, and each fifth, of which one comes after growth
    assert len(measured) == 1 + 64 // 5
    # two sides of the newborn in ten of them
    assert sum(len(parts) - len([part for part in parts if isinstance(part, str)]) for parts in measured) == 2 * 10


def test_parts_of_large_networks_have_no_newborns(capsys):
    logger = OwnLogger()
    fit(Slopes(), [patch(), StrataMonitor(norms=True, max_components=3)], epochs=3, logger=logger)
    assert not rows_of(logger)
    assert "born at step" not in printed(capsys)
