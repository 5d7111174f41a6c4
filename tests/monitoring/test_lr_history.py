"""Pictures, logs, previews and optimizer agree at every step; a history is exact, or says what it leaves out."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from helpers import LRTrace, Net, Plain, fit, loader, slow_but_for
from structurenet_pl import (
    Clock,
    Component,
    GrowEvery,
    GrowthEvent,
    GrowthResponder,
    ProgressiveFreeze,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    growth,
    plot_strata,
    preview,
)
from structurenet_pl.monitoring.run_record import MAX_BYTES, RunRecord
from structurenet_pl.monitoring.strata_file import FILE_NAME, read_strata_file

EPOCHS, BATCHES = 6, 10
STEPS = np.arange(EPOCHS * BATCHES)
SCHEDULES = {
    "OneCycleLR": (partial(OneCycleLR, max_lr=0.1, total_steps=len(STEPS)), "step"),
    "CosineAnnealingLR": (partial(CosineAnnealingLR, T_max=EPOCHS), "epoch"),
    "LambdaLR": (partial(LambdaLR, lr_lambda=lambda step: min(1.0, (step + 1) / 35)), "step"),
    "ReduceLROnPlateau": (partial(ReduceLROnPlateau, factor=0.5, patience=1), "epoch"),
}


class Hopeless:
    """The metric that the scheduler goes by never gets better, whatever is trained."""

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", 1.0)
        return loss


class Alone(Hopeless, Plain):
    """Trained without us."""


class Growing(Hopeless, Net):
    """Trained with us."""


class InTheOptimizer(Callback):
    """What the optimizer uses at each step, from a hook of its own: lr and whether it is frozen, by component."""

    def __init__(self):
        self.lrs, self.frozen = [], []

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_pre_hook(self.look)

    def look(self, optimizer, args, kwargs):
        self.lrs.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        self.frozen.append(
            {group["name"]: not any(p.requires_grad for p in group["params"]) for group in optimizer.param_groups}
        )


def callbacks():
    return [
        Warmup(2),
        SedimentaryDecay([("active", 0, 1.0), ("sediment", 2, 0.3)], where="patches.*"),
        GrowthResponder(recovery=1.5),
        ProgressiveFreeze([("all", 0, 1.0, 1.0, 0), ("late", 4, 0.0, 0.5, 2)]),
        GrowEvery("add_patch", 2, limit=2, arguments={"at": 1}),
    ]


def train(schedule, every, folder, epochs=EPOCHS, ckpt_path=None):
    make, interval = SCHEDULES[schedule]
    used, monitor, logger = InTheOptimizer(), StrataMonitor(table=False), CSVLogger(folder, name=None)
    trainer = fit(
        Growing(scheduler=make, interval=interval),
        [*callbacks(), monitor, used],
        epochs=epochs,
        ckpt_path=ckpt_path,
        data=loader(BATCHES),
        logger=logger,
        log_every_n_steps=every,
    )
    return trainer, monitor, used, logger.log_dir


def by_step(rows, components, missing):
    return np.array([[row.get(name, missing) for row in rows] for name in components])


def in_the_picture(log_dir):
    """The curves of a picture, by component and step; nan where none is drawn."""
    lines = plot_strata(log_dir).axes[0].get_lines()
    return {
        line.get_label(): line.get_ydata()[np.searchsorted(line.get_xdata(), STEPS, side="right") - 1]
        for line in lines
        if line.get_linestyle() == "-"
    }


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("every", "stop"), slow_but_for([(0, None), (50, 3)], [(0, None), (50, None), (10_000, None), (50, 3)])
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_view_agrees_with_the_optimizer_at_every_step(schedule, every, stop, tmp_path):
    base, (make, interval) = LRTrace(), SCHEDULES[schedule]
    fit(Alone(scheduler=make, interval=interval), [base], epochs=EPOCHS, data=loader(BATCHES))
    foreseen = preview(callbacks(), (), Growing(), EPOCHS, BATCHES, base_lr=[row[0] for row in base.rows].__getitem__)
    lrs, frozen, path = [], [], None
    if stop:
        trainer, _, used, _ = train(schedule, every, tmp_path / "first", stop)
        path = tmp_path / "stopped.ckpt"
        trainer.save_checkpoint(path)
        lrs, frozen = used.lrs, used.frozen
    _, monitor, used, log_dir = train(schedule, every, tmp_path / "run", ckpt_path=path)
    lrs, frozen = lrs + used.lrs, frozen + used.frozen

    history = monitor.strata
    assert history.components == foreseen.components
    assert any(map(any, foreseen.frozen.tolist()))
    lrs, frozen = by_step(lrs, history.components, np.nan), by_step(frozen, history.components, False)
    for one in (foreseen, history.at(STEPS), read_strata_file(log_dir).at(STEPS)):
        np.testing.assert_array_equal(one.lrs, lrs)
        np.testing.assert_array_equal(one.frozen, frozen)
        assert one.events == history.events
        assert one.note == ""
    drawn = in_the_picture(log_dir)
    for name, row, resting in zip(history.components, lrs, frozen, strict=True):
        np.testing.assert_array_equal(drawn[name], np.where(~resting & (row > 0), row, np.nan))
    logged = set()
    if every:
        with open(f"{log_dir}/metrics.csv") as file:
            for line in csv.DictReader(file):
                for name, row in zip(history.components, lrs, strict=True):
                    if value := line.get(f"lr/{name}"):
                        assert float(value) == row[int(line["step"])]
                        logged.add(int(line["step"]))
    # the first of all, those after growth, and those that are due; of a resumed run the first part has logs of its own
    expected = {0, 20, 40, *STEPS[every - 1 :: every].tolist()} if every else set()
    assert logged == {step for step in expected if step >= BATCHES * (stop or 0)}


def test_more_components_than_are_logged_can_be_drawn(tmp_path):
    logger = CSVLogger(tmp_path, name=None)
    fit(Net(), [*callbacks(), StrataMonitor(max_components=2)], epochs=3, logger=logger)
    assert set(in_the_picture(logger.log_dir)) == {"body.0", "body.3", "body.4", "head", "patches.0"}


class Moving(Net):
    @growth()
    def turn(self):
        """A module moves; nothing is born, and nothing goes."""
        self.body = torch.nn.Sequential(*self.body[:3], self.body[4], self.body[3])


@pytest.mark.parametrize("kind", ["curves", "heat_map"])
def test_growth_that_only_moves_modules_can_be_drawn(kind, tmp_path):
    logger, net = CSVLogger(tmp_path, name=None), Moving()
    fit(net, [Warmup(3, newborn_only=False), GrowEvery("turn", 1, limit=1), StrataMonitor()], epochs=3, logger=logger)
    assert len(net.growth_log) == 1
    assert plot_strata(logger.log_dir, kind=kind).axes
    assert read_strata_file(logger.log_dir).lrs[:, -1].tolist() == [0.1] * 4


def long(components, steps, moving):
    """A record in which the first few components move at every step, and the others every thousand."""
    record, generator = RunRecord(), np.random.default_rng(7)
    names = [f"blocks.{number}" for number in range(components)]
    record.set_structure([Component(name) for name in names], (), 0)
    columns, products = record.columns_of(0, names), np.ones(components)
    true = np.empty((components, steps))
    for step in range(steps):
        products[: components if step % 1000 == 0 else moving] = generator.random()
        products[:moving] *= np.arange(1, moving + 1)  # no two alike
        record.add_lrs(step, columns, np.full(components, 0.1), products)
        record.end_step = step + 1
        true[:, step] = 0.1 * products
    return record, true


def loaded(saved, components):
    record = RunRecord()
    record.load_state_dict(saved)
    record.set_structure(components, (), record.end_step)
    return record.to_history()


@pytest.mark.slow
def test_a_long_record_is_exact_and_small(tmp_path):
    steps, components, moving = 100_000, 100, 10
    record, true = long(components, steps, moving)
    file = tmp_path / "whole.pt"
    torch.save(record.state_dict(MAX_BYTES), file)
    assert file.stat().st_size < 10_000_000
    whole = loaded(torch.load(file, weights_only=True), record.components)
    assert whole.note == ""
    np.testing.assert_array_equal(whole.at(np.arange(steps)).lrs, true)

    saved = record.state_dict()
    torch.save(saved, file)
    assert file.stat().st_size < 1_000_000
    thinned = loaded(saved, record.components)
    told = thinned.note.replace(",", "").split()
    since, stride = int(told[2]), int(told[6])
    assert thinned.note == f"before step {since:,} one step in {stride} is shown"
    assert steps // 100 < steps - since
    np.testing.assert_array_equal(thinned.at(np.arange(since, steps)).lrs, true[:, since:])
    early = np.arange(0, since, stride)
    np.testing.assert_array_equal(thinned.at(early).lrs, true[:, early])
    assert plot_strata(thinned).axes[0].get_xlabel().endswith(thinned.note)


def test_a_record_that_gets_too_long_thins_itself(monkeypatch):
    monkeypatch.setattr("structurenet_pl.monitoring.run_record.MAX_BYTES", 40_000)
    record, true = long(4, 5000, 2)
    assert record._size <= 40_000
    history = record.to_history()
    assert "one step in" in history.note
    np.testing.assert_array_equal(history.at(np.arange(4999, 5000)).lrs, true[:, -1:])
    assert np.diff(history.steps).max() <= 64


def test_a_name_that_comes_back_is_somebody_else():
    a, b, later = Component("a"), Component("b"), Component("b", born=Clock(step=2, generation=2))
    log = (
        GrowthEvent("drop", {}, Clock(step=1, generation=1), removed=("b",)),
        GrowthEvent("add", {}, later.born, born=("b",)),
    )
    record = RunRecord()
    for step, components in enumerate([(a, b), (a,), (a, later)]):
        record.set_structure(components, log[:step], step)
        columns = record.columns_of(step, [component.name for component in components])
        record.add_lrs(step, columns, np.full(len(columns), 0.1), np.full(len(columns), 1.0 + step))
        record.end_step = step + 1
    history = record.to_history()
    rows = dict(zip(history.components, np.isnan(history.lrs).tolist(), strict=True))
    assert rows == {"b": [False, True, True], "a": [False, False, False], "b (2)": [True, True, False]}


def test_a_run_that_was_killed_leaves_what_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("structurenet_pl.monitoring.strata_file.SAVE_INTERVAL", 0.0)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 6:
                shown.append(read_strata_file(trainer.logger.log_dir).steps.tolist())

    shown = []
    fit(Plain(), [Warmup(3, newborn_only=False), StrataMonitor(), Stop()], epochs=2, logger=CSVLogger(tmp_path))
    assert shown == [[0, 3]]
    assert not list(tmp_path.rglob(f"{FILE_NAME}.*"))


def test_an_exception_leaves_the_history(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 6:
                raise RuntimeError("out of memory")

    logger = CSVLogger(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(Plain(), [Warmup(3, newborn_only=False), StrataMonitor(), Fail()], epochs=2, logger=logger)
    assert read_strata_file(logger.log_dir).steps.tolist() == [0, 4, 5]
