"""The metric of each validation is kept with step and size of the network, and drawn against both."""

import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from helpers import BATCHES, Net, Plain, fit, loader
from structurenet_pl import (
    Clock,
    GrowEvery,
    GrowOnPlateau,
    GrowthEvent,
    MetricHistory,
    StrataMonitor,
    Warmup,
    growth,
    plot_growth,
)
from structurenet_pl.monitoring.strata_file import read_validations

EPOCHS = 5
VALIDATION = loader(2, shuffle=False)


class Judged(Net):
    """Logs metrics in training, too, and one only between its first growth and its last."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        scores = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]))
        if 0 < len(self.growth_log) < 3:
            self.log("val_accuracy", (scores.argmax(1) == batch[1]).float().mean())

    @growth()
    def drop_patch(self):
        del self.patches[0]


class Seen(Callback):
    """What a user's callback sees at the end of each validation."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            size = sum(tensor.numel() for tensor in pl_module.parameters())
            self.rows.append((trainer.global_step, size, float(trainer.callback_metrics["val_loss"])))


def triggers():
    """Grow at steps and at epochs, in the middle and at the end, and shrink."""
    return [
        GrowEvery("add_patch", 6, unit="step", limit=1, arguments={"at": 0}),
        GrowEvery("add_neck", 2, limit=1),
        GrowEvery("drop_patch", 4, limit=1),
    ]


def judge(callbacks, epochs=EPOCHS, **kwargs):
    """A fit with a monitor, which comes back with its Trainer; the loader does not shuffle."""
    torch.manual_seed(0)
    monitor = StrataMonitor(table=False)
    options = {"logger": False, "num_sanity_val_steps": 1} | kwargs
    trainer = fit(Judged(), [*callbacks, monitor], epochs, validation=VALIDATION, **options)
    return monitor, trainer


def same(one, other):
    assert one.metrics.keys() == other.metrics.keys()
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_array_equal(one.parameters, other.parameters)
    for name, values in one.metrics.items():
        np.testing.assert_array_equal(values, other.metrics[name])
    assert (one.log, one.note) == (other.log, other.note)


quiet = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")


@quiet
@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_each_validation_is_recorded(interval):
    seen = Seen()
    monitor, trainer = judge([Warmup(), *triggers(), seen], val_check_interval=interval)
    history = monitor.validations
    assert history.steps.tolist() == [step for step in range(1, BATCHES * EPOCHS + 1) if step % (4 * interval) == 0]
    assert list(zip(history.steps, history.parameters, history.metrics["val_loss"], strict=True)) == seen.rows
    # neither what training logs, nor a value of an earlier validation
    assert list(history.metrics) == ["val_accuracy", "val_loss"]
    assert np.isnan(history.metrics["val_accuracy"]).tolist() == [not 6 <= step <= 16 for step in history.steps]
    trainer.validate(trainer.lightning_module, loader(1, shuffle=False), verbose=False)
    same(monitor.validations, history)


@quiet
def test_a_step_has_one_validation():
    monitor, _ = judge([Warmup()], accumulate_grad_batches=4, val_check_interval=0.5)
    assert monitor.validations.steps.tolist() == [0, 1, 2, 3, 4, 5]


@quiet
def test_the_size_is_that_of_the_network_that_was_validated():
    """A callback before the monitor may grow the network at the end of the validation."""
    monitor, trainer = judge([Warmup(), GrowOnPlateau("add_neck", "val_loss", 1, min_delta=100.0, limit=1)])
    (event,) = trainer.lightning_module.growth_log
    before, after = event.parameters
    sizes = [before if step <= event.clock.step else after for step in monitor.validations.steps]
    assert monitor.validations.parameters.tolist() == sizes
    assert {before, after} == set(sizes)


@quiet
def test_loaders_have_metrics_of_their_own():
    monitor = StrataMonitor(table=False)
    fit(Judged(), [Warmup(), monitor], epochs=2, validation=[VALIDATION, loader(1, shuffle=False)])
    history = monitor.validations
    assert list(history.metrics) == ["val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"]
    assert np.isfinite(list(history.metrics.values())).all()


@pytest.mark.parametrize("at", ["epoch end", "validation end"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The dirpath has changed")
def test_a_resumed_run_has_the_record_of_an_uninterrupted_one(at, tmp_path):
    def run(folder, ckpt_path=None):
        save = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=at == "epoch end")
        logger = CSVLogger(folder)
        callbacks = [Warmup(), *triggers(), save]
        monitor, _ = judge(callbacks, ckpt_path=ckpt_path, enable_checkpointing=True, logger=logger)
        same(read_validations(logger.log_dir), monitor.validations)
        return monitor.validations

    whole = run(tmp_path / "whole")
    for epoch in (0, 2):
        same(run(tmp_path / "resumed", tmp_path / f"whole/epoch={epoch}.ckpt"), whole)


@quiet
def test_a_new_fit_is_a_new_record():
    monitor, _ = judge([Warmup()])
    fit(Judged(), [Warmup(), monitor], epochs=1, validation=VALIDATION)
    assert monitor.validations.steps.tolist() == [BATCHES]


@quiet
def test_a_long_record_is_thinned_and_says_so(monkeypatch):
    whole, _ = judge([Warmup()], epochs=8)
    monkeypatch.setattr("structurenet_pl.monitoring.metric_record.MAX_NUMBERS", 12)
    thinned, _ = judge([Warmup()], epochs=8)
    assert whole.validations.note == ""
    assert thinned.validations.note == "some older validations are left out"
    kept = np.isin(whole.validations.steps, thinned.validations.steps)
    assert 2 <= kept.sum() <= 4
    assert kept[-1]
    np.testing.assert_array_equal(thinned.validations.metrics["val_loss"], whole.validations.metrics["val_loss"][kept])
    assert (
        plot_growth(thinned.validations, "val_loss")
        .axes[0]
        .get_xlabel()
        .endswith("\nsome older validations are left out")
    )


def example():
    """Two sizes of three validations each; the third validation of the second size lacks the metric."""
    log = (
        GrowthEvent("add", {}, Clock(), born=("early",), parameters=(50, 100)),  # before the run
        GrowthEvent("add", {}, Clock(35, 3, 1), born=("patches.0",), parameters=(100, 150)),
    )
    values = {"accuracy": np.array([0.1, 0.3, 0.5, 0.4, 0.6, np.nan]), "loss": np.arange(6.0)}
    return MetricHistory(np.arange(10, 70, 10), np.repeat([100, 150], 3), values, log)


def curve(line):
    return [*zip(*line.get_data(), strict=True)]


def test_the_metric_is_drawn_against_steps_and_size():
    history = example()
    figure = plot_growth(history, "accuracy")
    by_step, by_size = figure.axes
    assert (by_step.get_ylabel(), by_step.get_xlabel()) == ("accuracy", "optimizer step")
    assert by_size.get_xlabel() == "number of parameters"
    growth, line, diamonds = by_step.get_lines()
    np.testing.assert_array_equal(line.get_data(), [history.steps, history.metrics["accuracy"]])
    assert set(growth.get_xdata()) == {35}
    assert curve(diamonds) == [(35, pytest.approx(0.45))]
    assert [text.get_text() for text in by_step.texts] == ["+ patches.0"]
    growth, line, dots = by_size.get_lines()
    np.testing.assert_array_equal(line.get_data(), [history.parameters, history.metrics["accuracy"]])
    assert set(growth.get_xdata()) == {150}
    assert curve(dots)[0] == (100, 0.5)
    assert [text.get_text() for text in by_size.texts] == ["+ patches.0"]
    assert not figure.legends


def test_an_event_of_unknown_size_is_marked_by_step_only():
    log = (GrowthEvent("grow", {}, Clock(20, 2, 1)),)
    history = MetricHistory(np.array([10, 30]), np.array([100, 150]), {"loss": np.array([2.0, 1.0])}, log)
    by_step, by_size = plot_growth(history, "loss").axes[:2]
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in (by_step, by_size)]
    assert list(map(len, dashed)) == [1, 0]


def test_runs_are_compared():
    static = MetricHistory(np.array([30, 60]), np.array([150, 150]), {"loss": np.array([2.0, 1.0])})
    figure = plot_growth({"grown": example(), "static": static}, "loss")
    by_step, by_size = figure.axes
    curves = {line.get_label(): curve(line) for line in by_step.get_lines()}
    assert curves["static"] == [(30, 2), (60, 1)]
    assert len(curves["grown"]) == 6
    assert [text.get_text() for text in by_step.texts] == ["grown: + patches.0"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["grown", "static", "growth"]
    colours = [{line.get_color() for line in axes.get_lines()} for axes in (by_step, by_size)]
    assert colours == [{"0.3", "C0", "C1"}] * 2
    (legend,) = plot_growth({"a": static, "b": static}, "loss").legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


@pytest.mark.parametrize("events", [1, 15, 60])
def test_labels_have_room(events):
    steps, sizes = np.arange(1, 500), np.geomspace(1e5, 3e6, 499).astype(int)
    log = tuple(
        GrowthEvent("grow", {}, Clock(int(step), 0, 1), widened=("model.encoder.blocks.7",), parameters=(1, int(size)))
        for step, size in zip(steps[:: 500 // events], sizes[:: 500 // events], strict=True)
    )
    history = MetricHistory(steps, sizes, {"accuracy": np.sqrt(steps)}, log)
    figure = plot_growth({"a run with a long name": history, "another": example()}, "accuracy")
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for number, one in enumerate(labels) for other in labels[:number])
        assert axes.get_position().width > 0.2
        for text in axes.texts:
            extent = text.get_window_extent()
            assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
            assert 0 <= extent.y0 < extent.y1 <= figure.bbox.height


def test_a_picture_of_every_source(tmp_path):
    logger = CSVLogger(tmp_path)
    monitor, trainer = judge([Warmup(), *triggers()], logger=logger)
    curves = [
        curve(plot_growth(source, "val_loss").axes[1].get_lines()[-1])
        for source in (trainer, monitor.validations, logger.log_dir, {"one": trainer})
    ]
    assert all(one == curves[0] for one in curves)
    assert len(curves[0]) == 4  # founding, with a patch, with a neck, without the patch
    assert [text.get_text() for text in plot_growth(trainer, "val_loss").axes[0].texts] == [
        "+ patches.0",
        "+ necks.0",
        "- patches.0",
    ]


@quiet
def test_sources_without_the_metric(tmp_path):
    with pytest.raises(ValueError, match="the run has no validation metric 'acc', expected one of accuracy, loss"):
        plot_growth(example(), "acc")
    with pytest.raises(ValueError, match="the run 'b' has no validation metric 'f1', expected one of accuracy, loss"):
        plot_growth({"b": example()}, "f1")
    trainer = fit(Plain(), [Warmup(newborn_only=False), StrataMonitor(table=False)], epochs=1)
    with pytest.raises(ValueError, match="the run has no validation with a metric: give fit a validation loader"):
        plot_growth(trainer, "loss")
    with pytest.raises(ValueError, match="no StrataMonitor in the Trainer: give plot_growth a Trainer that had one"):
        plot_growth(Trainer(logger=False, enable_checkpointing=False), "loss")
    with pytest.raises(ValueError, match=r"holds no strata\.pt, which StrataMonitor writes there"):
        plot_growth(tmp_path, "loss")
    with pytest.raises(ValueError, match="is no directory"):
        plot_growth(tmp_path / "nowhere", "loss")
    with pytest.raises(ValueError, match="at least one run"):
        plot_growth({}, "loss")


def test_matplotlib_is_named_where_it_is_missing(monkeypatch):
    hidden = [name for name in sys.modules if f"{name}.".startswith("matplotlib.figure.")]
    for name in [*hidden, "matplotlib.figure"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install matplotlib tensorboard"):
        plot_growth(example(), "loss")
