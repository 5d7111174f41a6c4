"""StrataMonitor logs what the optimizers really used, misses no corner, and disturbs nobody."""

import copy
import csv
import pickle
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tbparse import SummaryReader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn

import structurenet_pl.callbacks.monitor as monitor_file
from helpers import LRTrace, Net, Plain, Validated, assert_same, example_factors, fit, loader, run, weights
from structurenet_pl import (
    GrowEvery,
    GrowOnPlateau,
    LARSScaler,
    LRFactor,
    ProgressiveFreeze,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
)
from structurenet_pl.tensorboard import LAYOUT

quiet = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")


def growing():
    return [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]


def events_of(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def logged(folder):
    """Tag -> step -> value, as both readers have it; no step of a tag comes twice."""
    events, curves = events_of(folder), {}
    for tag in events.Tags()["scalars"]:
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        curves[tag] = dict(points)
        assert len(curves[tag]) == len(points), tag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # between tbparse and pandas
        table = SummaryReader(str(folder)).scalars
    parsed = {tag: dict(zip(rows["step"], rows["value"], strict=True)) for tag, rows in table.groupby("tag")}
    assert parsed == curves
    return curves


def by_component(curves, kind="lr"):
    return {tag.removeprefix(f"{kind}/"): curve for tag, curve in curves.items() if tag.startswith(f"{kind}/")}


def assert_used(curves, used):
    """Each logged lr is exactly, as float32, what the optimizer used at that step."""
    assert curves
    for name, curve in curves.items():
        assert curve == {step: np.float32(used[step][name]) for step in curve}


class Used(Callback):
    """Step -> group -> lr at each step, and the same for every single factor."""

    def __init__(self):
        self.lrs = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        groups = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        self.lrs.setdefault(trainer.global_step, {}).update(groups)


class ByStep(LRFactor):
    """A jump, a ramp, a rest."""

    def factor(self, component, now):
        step = now.clock.step
        return 1.0 if step < 5 else 0.5 if step < 12 else min(1.0, 0.5 + 0.01 * (step - 11))


@pytest.mark.parametrize("every", [1, 3, 50])
def test_logged_lrs_are_those_that_were_used(every):
    used, logger = Used(), TensorBoardLogger("logs", name=None)
    # accumulation: a step is not a batch
    options = {"logger": logger, "log_every_n_steps": every, "accumulate_grad_batches": 2}
    factors = [factor for factor in example_factors() if not factor.needs_gradients]
    fit(Net(), [*factors, *growing(), used, StrataMonitor()], epochs=4, **options)
    curves = logged(logger.log_dir)
    assert_used(by_component(curves), used.lrs)
    # factors jump at each epoch, of two steps: the last step before and the first after are there, and the first of all
    assert set(curves["lr/head"]) == {0, 1, 2, 3, 4, 5, 6} | {step for step in range(8) if (step + 1) % every == 0}
    for name, born in {"body.0": 0, "body.3": 0, "head": 0, "patches.0": 2, "necks.0": 4}.items():
        assert min(curves[f"lr/{name}"]) == born
    assert curves["age/necks.0"][4] == 0
    assert curves["factor/Warmup/necks.0"][4] == np.float32(1 / 3)
    assert curves["factor/GrowthResponder/body.0"][2] == np.float32(0.7)
    assert curves["base_lr/head"][4] == np.float32(0.1)
    assert curves["stratum/body.0"][4] == 1
    assert "stratum/patches.0" not in curves
    lrs = [used.lrs[4][name] for name in ("body.0", "patches.0", "body.3", "body.4", "necks.0", "head")]
    for word, value in {"min": min(lrs), "max": max(lrs), "mean": sum(lrs) / 6}.items():
        assert curves[f"lr_range/{word}"][4] == pytest.approx(value, rel=1e-6)  # float32


def test_no_corner_is_lost_between_two_logged_steps():
    used, logger = Used(), TensorBoardLogger("logs", name=None)
    fit(Plain(), [ByStep(), used, StrataMonitor()], epochs=30, logger=logger, log_every_n_steps=50)
    curve = logged(logger.log_dir)["factor/ByStep/head"]
    # first, jump (before, after), start of the ramp (before, after), its end; 49 and 99 are due
    assert list(curve) == [0, 4, 5, 11, 12, 49, 61, 99]
    steps = range(100)
    true = [np.float32(used.lrs[step]["head"] / 0.1) for step in steps]
    assert np.interp(steps, list(curve), list(curve.values())) == pytest.approx(true, rel=1e-6)  # float32


def test_what_fades_away_comes_to_rest_once():
    class Fade(LRFactor):
        def factor(self, component, now):
            return 1 - 0.5 * 0.5 ** (now.clock.step / 10)  # from some step on it is a multiple of one rounding error

    logger = CSVLogger("logs")
    fit(Plain(), [Fade(), StrataMonitor()], epochs=200, logger=logger, log_every_n_steps=1000)
    assert len(rows_of(logger, "lr/head")) <= 4


def test_factors_of_gradients_are_left_to_the_interval():
    logger = CSVLogger("logs")
    fit(Plain(), [LARSScaler(0.1), StrataMonitor()], epochs=4, logger=logger, log_every_n_steps=8)
    assert [int(row["step"]) for row in rows_of(logger, "lr/head")] == [0, 7, 15]


def rows_of(logger, tag):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row.get(tag)]


class Foreign(Logger):
    """Somebody's own."""

    name, version = "foreign", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_every_logger_gets_the_same_rows():
    loggers = [CSVLogger("one"), TensorBoardLogger("two", name=None), Foreign()]
    fit(Plain(), [Warmup(newborn_only=False), StrataMonitor()], epochs=2, logger=loggers, log_every_n_steps=2)
    first, second, third = loggers
    rows = rows_of(first, "lr/head")
    assert [int(row["step"]) for row in rows] == [0, 1, 3, 4, 5, 7]
    assert float(rows[-1]["lr/head"]) == 0.1 * (2 / 5)
    mine = {step: row for step, row in third.rows if "lr/head" in row}
    for row in rows:
        known = {tag: float(value) for tag, value in row.items() if value and tag in mine[0]}
        assert known == mine[int(row["step"])]
    assert logged(second.log_dir)["lr/head"] == {step: np.float32(row["lr/head"]) for step, row in mine.items()}


def test_monitor_alone_shows_the_scheduler():
    logger = CSVLogger("logs")
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger, log_every_n_steps=1)
    assert {row["lr/body.0"] for row in rows_of(logger, "lr/body.0")} == {"0.1"}


def test_without_logger_it_warns():
    with pytest.warns(UserWarning, match="StrataMonitor has no logger"):
        fit(Plain(), [StrataMonitor()], epochs=1)


def test_nothing_is_logged_where_lightning_logs_nothing():
    logger = CSVLogger("logs")
    fit(Plain(), [StrataMonitor(norms=True)], epochs=1, logger=logger, log_every_n_steps=0)
    logger.log_metrics({"lr/nobody": 1.0})
    logger.save()
    assert [set(row) for row in rows_of(logger, "lr/nobody")] == [{"lr/nobody", "step"}]


class Adversaries(LightningModule):
    """Two optimizers in manual optimization, one of which steps twice."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        self.critic = nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in (first, second, second):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.critic(self.generator(batch[0])), batch[1]).backward()
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.generator.parameters(), 0.1), torch.optim.Adam(self.critic.parameters(), 0.01)]


@pytest.mark.parametrize("every", [1, 4])
def test_two_optimizers(every):
    used, logger = Used(), TensorBoardLogger("logs", name=None)
    factors = [SedimentaryDecay([("active", 0, 1.0), ("old", 1, 0.5)]), ByStep()]
    monitor = StrataMonitor(norms=True)
    fit(Adversaries(), [*factors, used, monitor], epochs=4, logger=logger, log_every_n_steps=every)
    curves = logged(logger.log_dir)
    assert_used(by_component(curves), used.lrs)
    assert set(by_component(curves)) == {"generator.0", "generator.1", "critic"}
    steps = [(3 * batch, 3 * batch + 1, 3 * batch + 2) for batch in range(16) if (batch + 1) % every == 0]
    assert {first for first, _, _ in steps} <= set(curves["lr/generator.0"])
    assert {step for _, *both in steps for step in both} <= set(curves["lr/critic"])
    assert not set(curves["lr/critic"]) & set(curves["lr/generator.0"])
    # what spans all components is of the lrs that all optimizers used last
    for step in set(curves["lr_range/max"]) - {0}:
        last = {name: lr for earlier in sorted(used.lrs)[: step + 1] for name, lr in used.lrs[earlier].items()}
        assert curves["lr_range/max"][step] == np.float32(max(last.values()))
        assert curves["lr_range/min"][step] == np.float32(min(last.values()))
    assert curves["update_ratio/critic"].keys() <= curves["lr/critic"].keys()
    assert monitor.strata.components == ("generator.0", "generator.1", "critic")
    assert np.isfinite(monitor.strata.lrs[:, 1:]).all()


def test_steps_past_lightning_are_counted_by_batches():
    class Past(Plain):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            super().training_step(batch, batch_idx).backward()
            optimizer.step()

    logger, monitor = TensorBoardLogger("logs", name=None), StrataMonitor(norms=True)
    decay = SedimentaryDecay([("active", 0, 1.0), ("old", 1, 0.5)])
    trainer = fit(Past(), [decay, monitor], epochs=2, logger=logger, log_every_n_steps=1)
    assert trainer.global_step == 0
    curves = logged(logger.log_dir)
    assert curves["lr/head"] == {step: np.float32(0.1 if step < 4 else 0.05) for step in range(8)}
    assert set(curves["update_ratio/head"]) == set(range(8))


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # of the run that was stopped
@pytest.mark.parametrize("every", [1, 3, 50])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_resumed_in_the_same_directory_as_if_never_stopped(at, every):
    def train(name, epochs, ckpt_path=None):
        logger, monitor = TensorBoardLogger("logs", name=None, version=name), StrataMonitor()
        keep = ModelCheckpoint("checkpoints", f"{name}-{epochs}")
        torch.manual_seed(1)
        factors = [*(factor for factor in example_factors() if not factor.needs_gradients), ByStep()]
        options = {"logger": logger, "log_every_n_steps": every, "enable_checkpointing": True}
        fit(Net(), [*factors, *growing(), monitor, keep], epochs=epochs, ckpt_path=ckpt_path, **options)
        return monitor, logger.log_dir, keep.best_model_path

    whole, there, _ = train("whole", 5)
    _, _, path = train("parts", at)
    resumed, here, _ = train("parts", 5, path)
    assert logged(here) == logged(there)
    for key, value in asdict(resumed.strata).items():
        np.testing.assert_array_equal(value, asdict(whole.strata)[key])
    (table,) = {texts(here)["strata/growth"][-1], texts(there)["strata/growth"][-1]}
    assert table.count("GrowEvery") == 2


def texts(folder):
    events = events_of(folder)
    return {
        tag.removesuffix("/text_summary"): [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }


def test_growth_table_says_when_what_where_and_who():
    class Watched(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0)

        def val_dataloader(self):
            return loader(1, shuffle=False)

    class Ask(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                pl_module.add_patch(at=0)

    logger, net = TensorBoardLogger("logs", name=None), Watched()
    callbacks = [Ask(), GrowOnPlateau("add_neck", "val_loss", patience=2, limit=1), StrataMonitor()]
    fit(net, callbacks, epochs=3, logger=logger)
    *earlier, table = texts(logger.log_dir)["strata/growth"]
    assert len(earlier) == 1
    assert table.startswith(earlier[0])
    assert table.splitlines() == [
        "| event | step | epoch | what | where | parameters | asked for by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 4 | 1 | born: `patches.0` | depth 0<br>next to `body.0`, `body.3` | 171 → 247 | user |",
        "| 2 | 12 | 3 | born: `necks.0` | next to `body.4`, `head` | 247 → 319 | GrowOnPlateau |",
    ]
    components = texts(logger.log_dir)["strata/components"][-1]
    assert [line.split(" | ")[0] for line in components.splitlines()[2:]] == [f"| `{name}`" for name in net.components]
    assert "| `patches.0` | patch | 0 | 4 | 1 | 76 |" in components.splitlines()


def layouts(folder):
    events = events_of(folder)
    return [Layout.FromString(event.tensor_proto.string_val[0]) for event in events.Tensors("custom_scalars__config__")]


def test_one_layout_shows_what_is_yet_unborn():
    logger = TensorBoardLogger("logs", name=None, version="same")
    trainer = fit(Net(), [*growing(), StrataMonitor()], epochs=3, logger=logger, log_every_n_steps=1)
    trainer.save_checkpoint("last.ckpt")
    again = TensorBoardLogger("logs", name=None, version="same")
    fit(Net(), [*growing(), StrataMonitor()], epochs=4, ckpt_path="last.ckpt", logger=again, log_every_n_steps=1)
    (layout,) = layouts(logger.log_dir)
    (category,) = layout.category
    lines, margin = category.chart
    assert list(lines.multiline.tag) == ["^lr/"]
    (series,) = margin.margin.series
    assert {series.value, series.lower, series.upper} <= logged(logger.log_dir).keys()


def test_a_layout_of_the_users_stays():
    logger = TensorBoardLogger("logs", name=None)
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["loss"]]}} | LAYOUT)
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    (layout,) = layouts(logger.log_dir)
    assert [category.title for category in layout.category] == ["mine", "strata"]


def test_pictures_are_few(monkeypatch):
    drawn = []
    monkeypatch.setattr(monitor_file, "heat_map", lambda strata: drawn.append(len(strata.events)))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *args: None)
    every = GrowEvery("add_patch", 1, unit="step", arguments={"at": 0})
    fit(Net(), [every, StrataMonitor(table=False)], epochs=4, data=loader(8), logger=TensorBoardLogger("logs"))
    assert drawn == [*range(1, 10), 10, 20, 30, 32]


def test_picture_shows_every_component():
    logger, monitor, net = TensorBoardLogger("logs", name=None), StrataMonitor(), Net()
    fit(net, [Warmup(), *growing(), monitor], epochs=3, logger=logger, log_every_n_steps=1)
    strata = monitor.strata
    assert strata.components == ("body.0", "body.3", "body.4", "head", "patches.0", "necks.0")
    assert strata.events == ((4, "+ patches.0"), (8, "+ necks.0"))
    assert list(strata.steps) == list(range(12))
    assert np.isnan(strata.lrs[4]).sum() == 4
    assert len(events_of(logger.log_dir).Images("strata/heat_map")) == 3


def test_without_matplotlib_it_says_so(monkeypatch, caplog):
    monkeypatch.setattr(monitor_file, "find_spec", lambda name: None)
    logger = TensorBoardLogger("logs", name=None)
    with caplog.at_level("INFO"):
        fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    assert "structurenet-pl[plots]" in caplog.text
    assert events_of(logger.log_dir).Tags()["images"] == []
