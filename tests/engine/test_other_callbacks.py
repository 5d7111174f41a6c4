"""Whoever stands beside us in the Trainer sees the same run, and we the same lrs."""

import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import Half, LRTrace, Validated, assert_same, loader, run, unfelt
from structurenet_pl import Components

COMPANIONS = {
    "LearningRateMonitor": lambda: callbacks.LearningRateMonitor("step", log_momentum=True),
    "EarlyStopping": lambda: callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0),
    "ModelCheckpoint": lambda: callbacks.ModelCheckpoint(monitor="val_loss", save_last=True),
    "StochasticWeightAveraging": lambda: callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=1),
    "EMAWeightAveraging": lambda: callbacks.EMAWeightAveraging(decay=0.9),
    "WeightAveraging": lambda: callbacks.WeightAveraging(),
    "GradientAccumulationScheduler": lambda: callbacks.GradientAccumulationScheduler({0: 1, 1: 3}),
    "ModelPruning": lambda: callbacks.ModelPruning("l1_unstructured", amount=0.2),
    "RichProgressBar": lambda: callbacks.RichProgressBar(),
    "TQDMProgressBar": lambda: callbacks.TQDMProgressBar(),
    "DeviceStatsMonitor": lambda: callbacks.DeviceStatsMonitor(cpu_stats=False),
    "OnExceptionCheckpoint": lambda: callbacks.OnExceptionCheckpoint("logs"),
    "Timer": lambda: callbacks.Timer("00:01:00:00"),
}
COMPANIONS = {name: make for name, make in COMPANIONS.items() if hasattr(callbacks, name)}  # some are new in 2.6
MEASURE_TIME = {"DeviceStatsMonitor"}  # their scalars differ from run to run


@pytest.mark.filterwarnings("ignore:.*(was called without a model|there is no last checkpoint)")  # with us or without
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_see_the_same_run(name, order):
    options = {"enable_progress_bar": "Progress" in name, "enable_checkpointing": "Checkpoint" in name}
    alone, logged, _ = run([COMPANIONS[name]()], **options)
    ours = [*unfelt(), Components({"head": "head"})]
    companion = COMPANIONS[name]()
    with_us, logged_too, _ = run([*ours, companion] if order == "after" else [companion, *ours], **options)
    assert_same(with_us, alone)
    assert logged_too.keys() == logged.keys()
    if name not in MEASURE_TIME:
        assert_same(logged_too, logged)


@pytest.mark.parametrize("order", ["before", "after"])
def test_learning_rate_monitor_logs_what_is_used(order):
    monitor, trace = callbacks.LearningRateMonitor("step"), LRTrace()
    _, _, trainer = run([Half(), monitor, trace] if order == "after" else [monitor, Half(), trace])
    log = EventAccumulator(trainer.logger.log_dir).Reload()
    for name in ("body.0", "head"):
        logged = [event.value for event in log.Scalars(f"lr-SGD/{name}")]
        assert logged == [float(torch.tensor(row[name], dtype=torch.float32)) for row in trace.rows]


def test_backbone_finetuning_is_refused():
    class Finetuned(Validated):
        def __init__(self):
            super().__init__()
            self.backbone = self.body

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    with pytest.raises(MisconfigurationException, match="BackboneFinetuning takes its lr from the first"):
        run([callbacks.BackboneFinetuning(), Half()], make=Finetuned)


class Unfreezes(callbacks.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.body, optimizer, lr=0.02)


class HeadFirst(Validated):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.head.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


@pytest.mark.parametrize("order", ["before", "after"])
def test_groups_that_are_added_late_have_factors(order):
    alone, _, _ = run([Unfreezes()], make=HeadFirst)
    ours = [*unfelt(), Unfreezes()]
    assert_same(run(ours if order == "after" else ours[::-1], make=HeadFirst)[0], alone)
    trace = LRTrace()
    ours = [Half(), Unfreezes()]
    run([*(ours if order == "after" else ours[::-1]), trace], make=HeadFirst)
    late = ["body.0", "body.3", "body.4"]
    assert [row for epoch in range(3) for row in trace.rows[8 * epoch : 8 * epoch + 1]] == [
        {"head": 0.05},
        {"head": 0.05} | dict.fromkeys(late, 0.01),
        {"head": 0.1 * 0.1 * 0.5} | dict.fromkeys(late, 0.02 * 0.1 * 0.5),
    ]


def test_resume_without_the_groups_that_were_added_late_is_refused(tmp_path):
    _, _, trainer = run([Half(), Unfreezes()], make=HeadFirst, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(ValueError, match=r"this run's optimizer has 1.*groups that a callback adds"):
        trainer.fit(HeadFirst(), loader(8), loader(2, shuffle=False), ckpt_path=tmp_path / "half.ckpt")
