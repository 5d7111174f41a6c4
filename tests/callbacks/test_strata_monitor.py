"""StrataMonitor logs what the optimizers really used, keeps every step of it, and disturbs nobody."""

import copy
import csv
import io
import pickle
import re
import time
import warnings
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from rich.console import Console
from tbparse import SummaryReader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn

import monitor_worker
import structurenet_pl.monitoring.run_display as run_display
import structurenet_pl.monitoring.tensorboard as tensorboard_file
from helpers import Net, Plain, Validated, assert_same, example_factors, fit, loader, run, slow_but_for, texts
from rank_processes import run_ranks
from recorders import OwnLogger, UsedLRs
from structurenet_pl import (
    Clock,
    GrowEvery,
    GrowOnPlateau,
    GrowthMixin,
    LARSScaler,
    LRFactor,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    explain,
    growth,
    plot_strata,
)
from structurenet_pl.monitoring.tensorboard import RANGE_TAGS, layout

quiet = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")
without_pictures = pytest.mark.usefixtures("no_pictures")  # a second for each pair, where nobody looks at them


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(run_display, "can_draw", lambda: False)


def growing():
    return [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]


def events_of(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def logged(folder):
    """Tag -> step -> value, as both readers have it; no step of a tag comes twice."""
    events, curves = events_of(folder), {}
    for tag in set(events.Tags()["scalars"]) - {"epoch"}:  # Lightning's own comes with each of its rows
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        curves[tag] = dict(points)
        assert len(curves[tag]) == len(points), tag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # between tbparse and pandas
        table = SummaryReader(str(folder)).scalars
    parsed = {
        tag: dict(zip(rows["step"], rows["value"], strict=True)) for tag, rows in table.groupby("tag") if tag != "epoch"
    }
    assert parsed == curves
    return curves


def all_points(own):
    """The same of all that a logger of the user's own got, as float32, as TensorBoard stores it."""
    curves = {}
    for step, row in own.rows:
        for tag in row.keys() - {"epoch"}:
            curves.setdefault(tag, {})[step] = np.float32(row[tag])
    return curves


def assert_same_lines(sparse, full):
    """The lines through the points of a curve in TensorBoard are the lines through all points."""
    assert sparse.keys() == full.keys()
    for tag, curve in full.items():
        assert sparse[tag].items() <= curve.items(), tag
        assert {min(curve), max(curve)} <= sparse[tag].keys(), tag
        points = sorted(sparse[tag].items())
        lines = np.interp(list(curve), *zip(*points, strict=True))
        np.testing.assert_array_equal(lines.astype(np.float32), list(curve.values()), tag)


def by_component(curves, kind="lr"):
    return {tag.removeprefix(f"{kind}/"): curve for tag, curve in curves.items() if tag.startswith(f"{kind}/")}


def assert_used(curves, used):
    """Each logged lr is exactly, as float32, what the optimizer used at that step."""
    assert curves
    for name, curve in curves.items():
        group = name if name in used[max(curve)] else f"{name}/1d"  # under LARS
        assert curve == {step: np.float32(used[step][group]) for step in curve}


class ByStep(LRFactor):
    """A jump, a ramp, a rest."""

    def factor(self, component, now):
        step = now.clock.step
        return 1.0 if step < 5 else 0.5 if step < 12 else min(1.0, 0.5 + 0.01 * (step - 11))


@without_pictures
@pytest.mark.parametrize("every", [1, 3, 50])
def test_logged_lrs_are_those_that_were_used(every):
    used, logger = UsedLRs(), TensorBoardLogger("logs", name=None)
    # accumulation: a step is not a batch
    options = {"logger": logger, "log_every_n_steps": every, "accumulate_grad_batches": 2}
    factors = [factor for factor in example_factors() if not factor.needs_gradients]
    fit(Net(), [*factors, *growing(), used, StrataMonitor()], epochs=4, **options)
    curves = logged(logger.log_dir)
    assert_used(by_component(curves), used.lrs)
    # the first of all, those after growth and freezing, and those that are due
    assert set(curves["lr/head"]) == {0, 2, 4, 6} | {step for step in range(8) if (step + 1) % every == 0}
    for name, born in {"body.0": 0, "body.3": 0, "head": 0, "patches.0": 2, "necks.0": 4}.items():
        assert min(curves[f"lr/{name}"]) == born
    assert curves["strata.details/age/necks.0"][4] == 0
    assert curves["strata/factor/Warmup/necks.0"][4] == np.float32(1 / 3)
    assert curves["strata/factor/GrowthResponder/body.0"][2] == np.float32(0.7)
    assert curves["strata.details/base_lr/head"][4] == np.float32(0.1)
    assert curves["strata/stratum/body.0"][4] == 1
    assert "strata/stratum/patches.0" not in curves
    lrs = [used.lrs[4][name] for name in ("body.0", "patches.0", "body.3", "body.4", "necks.0", "head")]
    for word, value in {"min": min(lrs), "max": max(lrs), "mean": sum(lrs) / 6}.items():
        assert curves[f"strata/lr_range/{word}"][4] == pytest.approx(value, rel=1e-6)  # float32


def test_factors_of_gradients_are_kept_as_they_were_logged():
    logger, used, monitor = CSVLogger("logs"), UsedLRs(), StrataMonitor()
    fit(Plain(), [LARSScaler(0.1), ByStep(), used, monitor], epochs=5, logger=logger, log_every_n_steps=8)
    assert [int(row["step"]) for row in rows_of(logger, "lr/head")] == [0, 7, 15]
    history = monitor.strata
    # also those at which the other has moved
    assert history.steps.tolist() == [0, 5, 7, *range(12, 20)]
    row = history.components.index("head")
    for step, lr in zip(history.steps.tolist(), history.lrs[row].tolist(), strict=True):
        logged_at = max(one for one in (0, 7, 15) if one <= step)
        other = [ByStep().factor(None, SimpleNamespace(clock=Clock(one))) for one in (logged_at, step)]
        # the factor of the gradients comes out of a quotient
        assert lr == pytest.approx(used.lrs[logged_at]["head"] / other[0] * other[1], rel=1e-12)


def rows_of(logger, tag):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row.get(tag)]


def test_every_logger_gets_the_same_rows():
    loggers = [CSVLogger("one"), TensorBoardLogger("two", name=None), OwnLogger()]
    fit(Plain(), [Warmup(newborn_only=False), StrataMonitor()], epochs=2, logger=loggers, log_every_n_steps=2)
    first, second, third = loggers
    rows = rows_of(first, "lr/head")
    assert [int(row["step"]) for row in rows] == [0, 1, 3, 5, 7]
    assert float(rows[-1]["lr/head"]) == 0.1 * (2 / 5)
    mine = {step: row for step, row in third.rows if "lr/head" in row}
    for row in rows:
        known = {tag: float(value) for tag, value in row.items() if value and tag in mine[0]}
        assert known == mine[int(row["step"])]
    assert_same_lines(logged(second.log_dir), all_points(third))


@without_pictures
def test_tensorboard_gets_no_points_inside_level_stretches():
    own, logger = OwnLogger(), TensorBoardLogger("logs", name=None)
    factors = [factor for factor in example_factors() if not factor.needs_gradients]
    monitor = StrataMonitor(norms=True)
    fit(Net(), [*factors, ByStep(), *growing(), monitor], epochs=5, logger=[own, logger], log_every_n_steps=1)
    curves, full = logged(logger.log_dir), all_points(own)
    assert_same_lines(curves, full)
    ends = {step + change for step in (0, 4, 8, 12, 16) for change in (0, 3)}  # of epochs, which a run may not outlive
    assert curves["strata.details/base_lr/head"].keys() == ends
    # the jump has both of its ends and is repeated for smoothed lines, and the ramp has all of its points
    assert curves["strata/factor/ByStep/head"].keys() == ends | {4, 5, 6} | set(range(12, 20))
    (low, *others) = (curves[tag].keys() for tag in RANGE_TAGS)  # TensorBoard refuses to draw others in one chart
    assert all(other == low for other in others)
    assert sum(map(len, curves.values())) < 0.6 * sum(map(len, full.values()))


@without_pictures
def test_a_prefix_and_a_logger_of_the_users_own_kind_are_honoured():
    class Rounded(TensorBoardLogger):
        def log_metrics(self, metrics, step=None):
            super().log_metrics({f"rounded/{tag}": round(value, 1) for tag, value in metrics.items()}, step)

    loggers = [TensorBoardLogger("one", name=None, prefix="mine"), Rounded("two", name=None)]
    fit(Plain(), [Warmup(newborn_only=False), StrataMonitor()], epochs=1, logger=loggers, log_every_n_steps=1)
    prefixed, rounded = (logged(logger.log_dir) for logger in loggers)
    assert prefixed["mine-lr/head"] == {0: np.float32(0.02), 3: np.float32(0.02)}
    assert rounded["rounded/lr/head"] == {0: 0.0, 3: 0.0}
    assert prefixed.keys() == {tag.replace("rounded/", "mine-") for tag in rounded}


@without_pictures
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")  # learning rates need no data
def test_resumed_in_mid_epoch_the_curves_are_as_if_never_stopped():
    def train(name, ckpt_path=None, **options):
        logger = TensorBoardLogger("logs", name=None, version=name)
        keep = ModelCheckpoint("checkpoints", name + "-{step}", every_n_train_steps=3, save_top_k=-1)
        callbacks = [Warmup(newborn_only=False), ByStep(), StrataMonitor(), keep]
        options |= {"logger": logger, "log_every_n_steps": 1, "enable_checkpointing": True}
        fit(Plain(), callbacks, ckpt_path=ckpt_path, **options)
        curves = logged(logger.log_dir)
        del curves["loss"]  # the data come in another order
        return curves

    whole = train("whole", epochs=4)
    train("parts", epochs=4, max_steps=6)
    time.sleep(1)  # TensorBoard reads the files of one second in the order of text: 10 before 9
    assert train("parts", "checkpoints/parts-step=6.ckpt", epochs=4) == whole


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


@without_pictures
@pytest.mark.parametrize("every", [1, 4])
def test_two_optimizers(every):
    used, own, logger = UsedLRs(), OwnLogger(), TensorBoardLogger("logs", name=None)
    factors = [SedimentaryDecay([("active", 0, 1.0), ("old", 1, 0.5)]), ByStep()]
    monitor = StrataMonitor(norms=True)
    fit(Adversaries(), [*factors, used, monitor], epochs=4, logger=[own, logger], log_every_n_steps=every)
    curves = all_points(own)
    assert_same_lines(logged(logger.log_dir), curves)
    assert_used(by_component(curves), used.lrs)
    assert set(by_component(curves)) == {"generator.0", "generator.1", "critic"}
    steps = [(3 * batch, 3 * batch + 1, 3 * batch + 2) for batch in range(16) if (batch + 1) % every == 0]
    assert {first for first, _, _ in steps} <= set(curves["lr/generator.0"])
    assert {step for _, *both in steps for step in both} <= set(curves["lr/critic"])
    assert not set(curves["lr/critic"]) & set(curves["lr/generator.0"])
    # what spans all components is of the lrs that stand in all optimizers
    for step in curves["strata/lr_range/max"]:
        standing = used.standing[step]
        assert curves["strata/lr_range/max"][step] == np.float32(max(standing))
        assert curves["strata/lr_range/min"][step] == np.float32(min(standing))
    assert curves["norms/update_ratio/critic"].keys() <= curves["lr/critic"].keys()
    assert monitor.strata.components == ("generator.0", "generator.1", "critic")
    assert np.isfinite(monitor.strata.lrs).all()


class Raw(Adversaries):
    """They are stepped past Lightning, so that its clock stands still."""

    def optimizers(self):
        return super().optimizers(use_pl_optimizer=False)


@pytest.mark.parametrize("max_components", [0, 100])
@pytest.mark.parametrize("make", [Adversaries, Raw])
def test_no_curve_goes_back(make, max_components):
    """Some loggers take no step twice, and no earlier one."""
    logger, steps = OwnLogger(), {}
    factors = [SedimentaryDecay([("active", 0, 1.0), ("old", 1, 0.5)]), ByStep()]
    monitor = StrataMonitor(norms=True, max_components=max_components)
    fit(make(), [*factors, monitor], epochs=4, logger=logger, log_every_n_steps=4)
    for step, row in logger.rows:
        for tag in row.keys() - {"epoch"}:
            steps.setdefault(tag, []).append(step)
    assert "strata/lr_range/min" in steps
    for tag, curve in steps.items():
        assert curve == sorted(set(curve)), tag


def test_steps_past_lightning_are_counted_by_batches():
    class Past(Plain):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            super().training_step(batch, batch_idx).backward()
            optimizer.step()

    own, logger, monitor = OwnLogger(), TensorBoardLogger("logs", name=None), StrataMonitor(norms=True)
    decay = SedimentaryDecay([("active", 0, 1.0), ("old", 1, 0.5)])
    trainer = fit(Past(), [decay, monitor], epochs=2, logger=[own, logger], log_every_n_steps=1)
    assert trainer.global_step == 0
    curves = all_points(own)
    assert_same_lines(logged(logger.log_dir), curves)
    assert curves["lr/head"] == {step: np.float32(0.1 if step < 4 else 0.05) for step in range(8)}
    assert set(curves["norms/update_ratio/head"]) == set(range(8))


@without_pictures
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # of the run that was stopped
@pytest.mark.parametrize("every", slow_but_for([50], [1, 50]))
@pytest.mark.parametrize("at", slow_but_for([3], [1, 3]))
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
    time.sleep(1)  # TensorBoard reads the files of one second in the order of text: 10 before 9
    resumed, here, _ = train("parts", 5, path)
    assert logged(here) == logged(there)
    for key, value in asdict(resumed.strata).items():
        np.testing.assert_array_equal(value, asdict(whole.strata)[key])
    (table,) = {texts(here)["strata/growth"][-1], texts(there)["strata/growth"][-1]}
    assert table.count("GrowEvery") == 2


@without_pictures
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
        "| when | what | where | parameters | asked for by |",
        "| --- | --- | --- | --- | --- |",
        "| from&nbsp;epoch&nbsp;1,<br>step&nbsp;4&nbsp;on | born: `patches.0` | depth 0<br>next to `body.0`, `body.3` "
        "| 171 → 247 | user |",
        "| from&nbsp;epoch&nbsp;3,<br>step&nbsp;12&nbsp;on | born: `necks.0` | next to `body.4`, `head` "
        "| 247 → 319 | GrowOnPlateau |",
    ]
    components = texts(logger.log_dir)["strata/components"][-1]
    assert [line.split(" | ")[0] for line in components.splitlines()[2:]] == [f"| `{name}`" for name in net.components]
    assert "| `patches.0` | patch | 0 | epoch 1, step 4 | 76 |" in components.splitlines()


def layouts(folder):
    events = events_of(folder)
    return [Layout.FromString(event.tensor_proto.string_val[0]) for event in events.Tensors("custom_scalars__config__")]


@without_pictures
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
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["loss"]]}} | layout())
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    (found,) = layouts(logger.log_dir)
    assert [category.title for category in found.category] == ["mine", "strata"]


def test_the_layout_goes_by_the_prefix_of_the_logger():
    logger = TensorBoardLogger("logs", name=None, prefix="fold+1")
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    ((category,),) = [layout.category for layout in layouts(logger.log_dir)]
    lines, margin = category.chart
    assert re.match(lines.multiline.tag[0], "fold+1-lr/head")
    (series,) = margin.margin.series
    assert {series.value, series.lower, series.upper} <= logged(logger.log_dir).keys()


def test_pictures_are_few(monkeypatch):
    drawn = []
    monkeypatch.setattr(tensorboard_file, "draw_heat_map", lambda history: drawn.append(len(history.events)))
    monkeypatch.setattr(tensorboard_file, "draw_curves", lambda history, size: None)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *args: None)
    every = GrowEvery("add_patch", 1, unit="step", arguments={"at": 0})
    fit(Net(), [every, StrataMonitor(table=False)], epochs=4, data=loader(8), logger=TensorBoardLogger("logs"))
    assert drawn == [*range(1, 10), 10, 20, 30, 32]


def test_picture_shows_every_component():
    logger, monitor, net = TensorBoardLogger("logs", name=None), StrataMonitor(), Net()
    fit(net, [Warmup(), *growing(), monitor], epochs=3, logger=logger, log_every_n_steps=1)
    history = monitor.strata
    assert history.components == ("body.0", "body.3", "body.4", "head", "patches.0", "necks.0")
    assert history.events == ((4, "+ patches.0"), (8, "+ necks.0"))
    assert list(history.steps) == [0, 4, 8, 11]  # births, after each of which a warm-up starts; the end
    assert np.isnan(history.lrs[4]).sum() == 1
    assert len(events_of(logger.log_dir).Images("LR/heat_map")) == 3


def test_without_matplotlib_it_says_so(monkeypatch, caplog):
    monkeypatch.setattr(tensorboard_file, "find_spec", lambda name: None)
    logger = TensorBoardLogger("logs", name=None)
    with caplog.at_level("INFO"):
        fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    assert "pip install matplotlib tensorboard" in caplog.text
    assert events_of(logger.log_dir).Tags()["images"] == []


class Measured(Callback):
    """Norms of every step, the plain way."""

    def __init__(self):
        self.before, self.rows = {}, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.before = {name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()}
        self.grads = {name: tensor.grad.clone() for name, tensor in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, *args):
        now = dict(pl_module.named_parameters())
        rows = {}
        for part in ("body.0", "body.3", "body.4", "head"):
            names = [name for name in self.before if name.startswith(part)]
            update, weight, grad = (
                torch.cat([tensors(name).flatten().double() for name in names]).norm().item()
                for tensors in (lambda name: now[name] - self.before[name], self.before.get, self.grads.get)
            )
            rows[part] = grad, update / weight
        self.rows.append(rows)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_norms_of_gradients_and_updates(clip):
    measured, logger = Measured(), TensorBoardLogger("logs", name=None)
    options = {"logger": logger, "log_every_n_steps": 3, "gradient_clip_val": clip}
    fit(Plain(), [measured, StrataMonitor(norms=True)], epochs=3, **options)
    curves = logged(logger.log_dir)
    for part in ("body.0", "body.3", "body.4", "head"):
        assert list(curves[f"norms/grad/{part}"]) == list(curves[f"norms/update_ratio/{part}"]) == [0, 2, 5, 8, 11]
        for step, value in curves[f"norms/grad/{part}"].items():
            assert value == pytest.approx(measured.rows[step][part][0], rel=1e-5)  # sums of float32
        for step, value in curves[f"norms/update_ratio/{part}"].items():
            assert value == pytest.approx(measured.rows[step][part][1], rel=1e-5)


def test_norms_are_of_their_own_step_where_a_scaler_skips_one():
    class Overflow(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 3:
                pl_module.head.weight.grad.fill_(float("inf"))

    logger, options = OwnLogger(), {"log_every_n_steps": 4}
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fit(Plain(), [Overflow(), StrataMonitor(norms=True)], epochs=2, logger=logger, plugins=[precision], **options)
    assert [step for step, row in logger.rows if "lr/head" in row] == [0, 3, 7]
    assert [step for step, row in logger.rows if "norms/update_ratio/head" in row] == [0, 7]


def test_norms_of_what_is_still_zero_or_has_no_gradient():
    class Partly(Plain):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            self.body[3].requires_grad_(False)

    logger = TensorBoardLogger("logs", name=None)
    fit(Partly(), [StrataMonitor(norms=True)], epochs=1, logger=logger, log_every_n_steps=1)
    curves = logged(logger.log_dir)
    assert list(curves["norms/update_ratio/head"]) == [1, 2, 3]
    assert list(curves["norms/grad/head"]) == [0, 1, 2, 3]
    assert set(curves["norms/grad/body.3"].values()) == set(curves["norms/update_ratio/body.3"].values()) == {0}


class Wide(Plain):
    """A component in each layer."""

    def __init__(self, layers):
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(layers)))
        self.head = nn.Linear(6, 3)


@without_pictures
def test_many_components_are_summed_up(caplog):
    used, own, logger = UsedLRs(), OwnLogger(), TensorBoardLogger("logs", name=None)
    decay = SedimentaryDecay([("active", 0, 1.0), ("sediment", 1, 0.1)], where="body.*")
    monitor = StrataMonitor(norms=True)
    with caplog.at_level("INFO"):
        fit(Wide(120), [decay, used, monitor], epochs=2, logger=[own, logger], log_every_n_steps=2)
    assert "it has 121 components" in caplog.text
    curves = all_points(own)
    assert_same_lines(logged(logger.log_dir), curves)
    assert len(curves) < 60
    assert set(curves["lr/active/mean"]) == {0, 1, 3}
    assert set(curves["lr/sediment/mean"]) == {5, 7}
    assert curves["strata/components/sediment"][5] == 120
    assert curves["strata/components/others"][5] == 1
    assert curves["lr/sediment/max"][5] == curves["lr/sediment/min"][5] == np.float32(used.lrs[5]["body.7"])
    assert curves["strata/factor/SedimentaryDecay/sediment/mean"][5] == np.float32(0.1)
    assert curves["norms/grad/sediment"].keys() == curves["lr/sediment/mean"].keys()
    assert monitor.strata.steps.tolist() == [0, 4, 7]
    assert monitor.strata.lrs.shape == (121, 3)
    assert plot_strata(logger.log_dir).axes


class Freezes(LRFactor):
    freezes = True

    def factor(self, component, now):
        return 0.0 if now.clock.epoch > 0 and component.name == "body.0" else 1.0


def test_what_is_frozen_is_logged():
    logger, monitor, console = TensorBoardLogger("logs", name=None), StrataMonitor(), io.StringIO()
    trainer = fit(Plain(), [Freezes(), monitor], epochs=2, logger=logger, log_every_n_steps=6)
    curves = logged(logger.log_dir)
    assert curves["strata/frozen/body.0"] == {0: 0, 4: 1, 5: 1}
    assert curves["strata/frozen/head"] == {0: 0, 4: 0, 5: 0}
    share = np.float32(56 / 171)
    assert curves["strata/frozen_share/parameters"] == {0: 0, 4: share, 5: share}
    # multiply-adds of a sample: 48 + 64 + 24 forward, the same for the weights, all but the first for the inputs; now
    # the weights of the first and the inputs of the second are not needed
    assert curves["strata/frozen_share/work"] == {5: np.float32(1 - (136 + 88 + 24) / (136 + 136 + 88))}
    assert monitor.strata.steps.tolist() == [0, 4, 7]
    assert monitor.strata.frozen.tolist() == [[False, True, True], *[[False] * 3] * 3]
    rates = explain(trainer, Console(file=console, width=100))
    assert [rate.component.name for rate in rates if rate.frozen] == ["body.0"]
    lines = {line.split()[0]: line for line in console.getvalue().splitlines() if line.split()}
    assert lines["body.0"].split()[-1] == "frozen"
    assert lines["frozen:"] == "frozen: 1 of 4 components, 33% of the parameters, saves 31% of a step's work"


def test_what_is_frozen_from_the_start():
    class Frozen(LRFactor):
        freezes = True

        def factor(self, component, now):
            return 0.0 if now.clock.epoch < 1 and component.name == "body.0" else 1.0

    monitor = StrataMonitor()
    fit(Plain(), [Frozen(), monitor], epochs=2, logger=CSVLogger("logs"))
    assert monitor.strata.components == ("body.0", "body.3", "body.4", "head")
    assert monitor.strata.steps.tolist() == [0, 4, 7]
    assert monitor.strata.frozen.tolist() == [[True, False, False], *[[False] * 3] * 3]


def test_nothing_of_freezing_where_nothing_freezes():
    logger = TensorBoardLogger("logs", name=None)
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger)
    assert not [tag for tag in logged(logger.log_dir) if tag.startswith("strata/frozen")]


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_short_line_in_the_progress_bar(bar):
    shown = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            metrics = trainer.progress_bar_callback.get_metrics(trainer, pl_module)
            shown.append({name: value for name, value in metrics.items() if name.startswith("lr_")})

    decay = SedimentaryDecay([("active", 0, 1.0), ("sediment", 1, 0.1)], roles={"patch": 0.5})
    net, logger = Net(), CSVLogger("logs")
    callbacks = [decay, *growing()[:1], StrataMonitor(progress_bar=True), Look(), bar()]
    fit(net, callbacks, epochs=2, enable_progress_bar=True, logger=logger, log_every_n_steps=1)
    assert shown[0] == {"lr_active": pytest.approx(0.1)}
    assert shown[-1] == pytest.approx({"lr_active": 0.1, "lr_sediment": 0.01, "lr_patch": 0.05})
    assert not rows_of(logger, "lr_active")


@quiet
def test_the_table_can_be_left_out(capsys):
    fit(Net(), [Warmup(), *growing(), StrataMonitor()], epochs=3)
    told = capsys.readouterr().out
    assert told.count("Learning rates at epoch 0, step 0") == 1
    assert told.count("Growth ") == told.count(", by Grow") == 2
    fit(Net(), [Warmup(), *growing(), StrataMonitor(table=False)], epochs=3)
    assert capsys.readouterr().out == ""


def test_explain_in_every_hook():
    found = {}

    class Everywhere(Callback):
        pass

    def look(hook):
        def called(self, trainer, *args, **kwargs):
            found[hook] = explain(trainer, Console(file=io.StringIO()))

        return called

    early = {"setup", "configure_sharded_model", "load_state_dict", "state_dict", "on_load_checkpoint"}
    hooks = [name for name in vars(Callback) if name.startswith("on_") and name not in early]
    for hook in hooks:
        setattr(Everywhere, hook, look(hook))
    run([Everywhere(), Warmup()], max_epochs=1)
    assert {"on_fit_start", "on_train_batch_end", "on_before_zero_grad", "on_before_optimizer_step"} <= found.keys()
    for rates in found.values():
        assert [rate.component.name for rate in rates] == ["body.0", "body.3", "body.4", "head"]


class Growable(GrowthMixin, Validated):
    @growth(role="new")
    def deepen(self):
        self.body.append(nn.Linear(8, 8))

    def configure_callbacks(self):
        return [*super().configure_callbacks(), GrowEvery("deepen", 1, limit=2)]


@pytest.mark.parametrize("options", [{}, {"norms": True, "progress_bar": True}, {"max_components": 0, "norms": True}])
@pytest.mark.parametrize("make", slow_but_for([Growable], [Validated, Growable]))
def test_it_changes_nothing_else(make, options):
    without, logs, _ = run(make=make)
    with_it, more, _ = run([StrataMonitor(**options)], make=make)
    assert_same(with_it, without)
    ours = ("lr/", "strata/", "strata.details/", "norms/", "newborn/")
    assert {tag: points for tag, points in more.items() if not tag.startswith(ours)} == logs


@pytest.mark.parametrize("way", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_a_busy_monitor_start_anew(way):
    class Copy(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.copy = way(monitor)

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.copy = way(monitor)

    monitor, busy = StrataMonitor(norms=True), Copy()
    fit(Net(), [Warmup(), *growing(), monitor, busy], epochs=3, logger=CSVLogger("logs"), log_every_n_steps=2)
    np.testing.assert_array_equal(busy.copy.strata.steps, monitor.strata.steps)
    logger = CSVLogger("again")
    fit(Plain(), [Warmup(), busy.copy], epochs=1, logger=logger, log_every_n_steps=2)
    assert [int(row["step"]) for row in rows_of(logger, "norms/update_ratio/head")] == [0, 1, 3]


def test_optimizers_are_left_alone_after_the_fit():
    trainer = fit(Plain(), [StrataMonitor(norms=True)], epochs=1, logger=CSVLogger("logs"))
    hooks = map(repr, trainer.optimizers[0]._optimizer_step_post_hooks.values())
    assert [hook for hook in hooks if ".monitoring." in hook] == []


@pytest.mark.slow
def test_of_two_processes_the_first_logs(tmp_path):
    first, second = run_ranks(monitor_worker, "monitor", tmp_path)
    assert second["rows"] == []
    curves = logged(tmp_path / "run")
    assert_used(by_component(curves), first["used"])
    assert {step: np.float32(row["lr/head"]) for step, row in first["rows"]} == curves["lr/head"]
    assert {"patches.0", "patches.1", "patches.2"} <= by_component(curves).keys()
    assert {step for step in range(16) if (step + 1) % 3 == 0} <= set(curves["lr/head"])
    assert first["used"] == second["used"]
    assert first["norms"] == second["norms"]
    norms = by_component(curves, "norms/grad")["head"].values()
    assert list(norms) == [np.float32(row["head"].grad) for row in first["norms"]]
    # where processes differ, the root of the mean square speaks for them
    assert first["apart"] == second["apart"] == pytest.approx([2**0.5, 1.0])
    assert first["explained"] == second["explained"]


def test_a_picture_ends_where_the_run_does():
    logger, monitor = CSVLogger("logs"), StrataMonitor()
    fit(Plain(), [Warmup(start=1.0, newborn_only=False), monitor], epochs=5, logger=logger, log_every_n_steps=50)
    assert monitor.strata.steps.tolist()[-1] == 19
    assert monitor.strata.lrs[:, -1].tolist() == [0.1] * 4
