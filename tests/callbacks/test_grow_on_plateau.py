"""When it grows, given the metric of each validation, and that a resumed run grows all the same."""

import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import Net, assert_same, fit, loader, weights
from structurenet_pl import Clock, GrowOnPlateau, Warmup, growth

NAN, INF = math.nan, math.inf


class Scripted(Net):
    """Its metric is one of a list, by the number of steps; the sanity check finds the last of them."""

    def __init__(self, values, every=1, **kwargs):
        super().__init__(**kwargs)
        self.values, self.every = values, every

    def validation_step(self, batch, batch_idx):
        self.log("metric", float(self.values[self.global_step // self.every - 1]))

    def val_dataloader(self):
        return loader(1, shuffle=False)


def grown_after(values, **arguments):
    """The validations after which it grew, from 1 on."""
    net = Scripted(values)
    fit(net, [GrowOnPlateau("add_neck", "metric", **arguments)], epochs=len(values), data=loader(1))
    return [event.clock.epoch for event in net.growth_log]


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        # patience: the validations in a row that do not improve
        ([1, 1, 1, 1, 1], {"patience": 1}, [2, 3, 4, 5]),
        ([1, 1, 1, 1, 1], {"patience": 2}, [3, 5]),
        ([1, 1, 1, 1, 1], {}, [4]),
        ([5, 4, 3, 2, 1], {"patience": 1}, []),
        ([3, 4, 2, 3, 3, 1, 2], {"patience": 2}, [5]),
        # mode
        ([1, 2, 3, 4, 5], {"patience": 2}, [3, 5]),
        ([1, 2, 3, 4, 5], {"patience": 2, "mode": "max"}, []),
        ([5, 4, 3, 2, 1], {"patience": 2, "mode": "max"}, [3, 5]),
        ([-1, -2, -3], {"patience": 1}, []),
        # min_delta: to be exceeded, and counted from the best
        ([8, 7, 6, 5], {"patience": 1, "min_delta": 1.0}, [2, 4]),
        ([8, 7, 5, 4, 2], {"patience": 1, "min_delta": 1.0}, [2, 4]),
        ([1, 1.25, 1.5, 1.75], {"patience": 2, "min_delta": 0.5, "mode": "max"}, [3]),
        # the best is kept over a growth
        ([1, 2, 9, 8, 7, 6], {"patience": 2}, [3, 5]),
        # cooldown: nothing counts, but the best may be set
        ([1, 1, 1, 1, 1, 1, 1], {"patience": 1, "cooldown": 2}, [2, 5]),
        ([1, 1, 1, 1, 1, 1, 1], {"patience": 2, "cooldown": 1}, [3, 6]),
        ([3, 3, 1, 2, 2], {"patience": 1, "cooldown": 1}, [2, 4]),
        # limit
        ([1, 1, 1, 1, 1], {"patience": 1, "limit": 2}, [2, 3]),
        # neither NaN nor infinity is an improvement, not even as the first
        ([NAN, NAN, 1, 1], {"patience": 2}, [2]),
        ([-INF, 1, 1, -INF], {"patience": 1}, [1, 3, 4]),
        ([INF, 1, INF, 2], {"patience": 2, "mode": "max"}, []),
    ],
)
def test_grows_when_patience_is_at_its_end(values, arguments, expected):
    assert grown_after(values, **arguments) == expected


def test_growth_is_logged_at_the_clock_of_its_validation_and_trains():
    net = Scripted([1.0] * 3, every=4)
    trigger = GrowOnPlateau("add_patch", "metric", patience=1, limit=1, arguments={"at": 1})
    trainer = fit(net, [trigger, Warmup(3)], epochs=3)
    (event,) = net.growth_log
    assert (event.method, event.arguments, event.clock) == ("add_patch", {"at": 1, "inner": 4}, Clock(8, 2, 1))
    assert all(tensor in trainer.optimizers[0].state for tensor in net.patches.parameters())
    assert net.patches.training


def test_within_an_epoch():
    net = Scripted([1.0] * 12, every=2)
    fit(net, [GrowOnPlateau("add_neck", "metric", patience=4)], epochs=6, val_check_interval=2)
    assert [event.clock for event in net.growth_log] == [Clock(10, 2, 1), Clock(18, 4, 2)]


def test_only_validations_count():
    net = Scripted([1.0] * 8)
    fit(net, [GrowOnPlateau("add_neck", "metric", patience=1)], 8, data=loader(1), check_val_every_n_epoch=3)
    assert [event.clock.epoch for event in net.growth_log] == [6]


def test_neither_the_sanity_check_nor_validation_alone_counts():
    net, trigger = Scripted([2.0, 2.0, -9.0]), GrowOnPlateau("add_neck", "metric", patience=1)
    trainer = fit(net, [trigger], epochs=2, data=loader(1), num_sanity_val_steps=2)
    assert [event.clock.epoch for event in net.growth_log] == [2]
    before = trigger.state_dict()
    trainer.validate(net, verbose=False)
    assert trigger.state_dict() == before


def test_every_fit_starts_anew_and_a_trainer_that_goes_on_does_not():
    trigger = GrowOnPlateau("add_neck", "metric", patience=3, limit=1)
    for _ in range(2):
        net = Scripted([1.0] * 6)
        trainer = fit(net, [trigger], epochs=3, data=loader(1))
        assert net.growth_log == ()
    trainer.fit_loop.max_epochs = 6
    trainer.fit(net, loader(1))
    assert [event.clock.epoch for event in net.growth_log] == [4]


def test_the_first_process_decides(monkeypatch):
    net, heard = Scripted([1.0, 2.0, 3.0]), []
    trigger = GrowOnPlateau("add_neck", "metric", patience=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", callbacks=[trigger], enable_model_summary=False, **options)

    def broadcast(value, src=0):
        if isinstance(value, float):
            heard.append(value)
            return -value
        return value

    monkeypatch.setattr(trainer.strategy, "broadcast", broadcast)
    trainer.fit(net, loader(1))
    assert heard == [1.0, 2.0, 3.0]
    assert net.growth_log == ()


# ------------------------------------------------------------------------------------------------------------- resuming


class SavesFirst(Callback):
    """Writes its checkpoints where validation ends, before callbacks behind it have had their turn."""

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(f"step={trainer.global_step}.ckpt")


mid_epoch = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
# resumed runs have a ModelCheckpoint of their own
elsewhere = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory")

SAVES = {
    "at the end of validation": lambda: [ModelCheckpoint(".", "{step}", save_top_k=-1, save_on_train_epoch_end=False)],
    "at the end of the epoch": lambda: [ModelCheckpoint(".", "{step}", save_top_k=-1, save_on_train_epoch_end=True)],
    "by a callback in front of it": lambda: [SavesFirst()],
}


def train(saves, ckpt_path=None):
    """All that a run leaves: it grows after epoch 2, and twice after epoch 5."""
    values = [3.0, 3.0, 1.0, 2.0, 2.0, 2.0]
    net = Scripted(
        values,
        every=4,
        optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
    )
    neck = GrowOnPlateau("add_neck", "metric", patience=1, cooldown=2)
    patch = GrowOnPlateau("add_patch", "metric", patience=2, limit=1, arguments={"at": 1})
    trainer = fit(net, [*saves, neck, Warmup(3), patch], 6, ckpt_path, enable_checkpointing=True)
    assert [(event.method, event.clock.epoch) for event in net.growth_log] == [
        ("add_neck", 2),
        ("add_neck", 5),
        ("add_patch", 5),
    ]
    return {
        "weights": weights(net),
        "optimizer": trainer.optimizers[0].state_dict(),
        "triggers": [neck.state_dict(), patch.state_dict()],
    }


@elsewhere
@pytest.mark.parametrize("saves", SAVES)
def test_resumed_equals_uninterrupted(saves):
    whole = train(SAVES[saves]())
    for epoch in range(1, 6):
        seed_everything(99, verbose=False)  # what a fresh process happens to start with must not matter
        assert_same(train([], f"step={4 * epoch}.ckpt"), whole)


@elsewhere
@mid_epoch
def test_resumed_within_an_epoch():
    """On data that is the same in each batch, for Lightning begins the order of the data anew."""
    x = torch.randn(8, 6).repeat(4, 1)
    data = DataLoader(TensorDataset(x, torch.zeros(32, dtype=torch.long)), batch_size=8)

    def run(callbacks, ckpt_path=None):
        net = Scripted([3.0, 2.0, 2.0, 2.0, 2.0, 2.0], every=2)
        trigger = GrowOnPlateau("add_neck", "metric", patience=3)
        fit(net, [trigger, *callbacks], 3, ckpt_path, data, enable_checkpointing=True, val_check_interval=2)
        assert [event.clock for event in net.growth_log] == [Clock(10, 2, 1)]
        return weights(net), trigger.state_dict()

    whole = run([ModelCheckpoint(".", "{step}", save_top_k=-1, save_on_train_epoch_end=False)])
    for step in (2, 4, 6, 8, 10):
        seed_everything(99, verbose=False)
        assert_same(run([], f"step={step}.ckpt"), whole)


@mid_epoch
def test_growth_that_waits_for_the_update_is_not_lost():
    net, save = Scripted([1.0] * 6), SavesFirst()
    trigger = GrowOnPlateau("add_neck", "metric", patience=2, limit=1)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 1}
    fit(net, [trigger, save], epochs=1, **options)
    assert [event.clock for event in net.growth_log] == [Clock(2, 1, 1)]
    assert not trigger.state_dict()["owed"]
    saved = torch.load("step=1.ckpt", weights_only=True)["callbacks"][trigger.state_key]
    assert saved == {"best": 1.0, "waited": 0, "cooling": 0, "grown": 1, "owed": True}
    resumed = Scripted([1.0] * 6)
    fit(resumed, [trigger], epochs=1, ckpt_path="step=1.ckpt", **options)
    assert len(resumed.growth_log) == 1


def test_growth_that_decides_itself_is_not_owed_afterwards():
    class Decides(Scripted):
        @growth(role="neck")
        def decide(self, width: int | None = None):
            self.necks.append(nn.Linear(8, 8))
            return {"width": width or 8}

    net, trigger = Decides([1.0] * 6), GrowOnPlateau("decide", "metric", patience=2, limit=1)
    fit(net, [trigger], epochs=5, data=loader(1)).save_checkpoint("grown.ckpt")
    assert [event.called for event in net.growth_log] == ["decide(width=8)"]
    assert not trigger.state_dict()["owed"]
    resumed = Decides([1.0] * 6)
    fit(resumed, [trigger], epochs=6, ckpt_path="grown.ckpt", data=loader(1))
    assert len(resumed.growth_log) == 1


@mid_epoch
def test_two_triggers_of_one_method_each_get_their_growth_after_a_resume():
    class Kinds(Scripted):
        @growth(role="neck")
        def add_kind(self, kind: int):
            self.necks.append(nn.Linear(8, 8))

    def triggers():
        options = {"patience": 2, "limit": 1}
        return [GrowOnPlateau("add_kind", "metric", arguments={"kind": kind}, **options) for kind in (1, 2)]

    options = {"accumulate_grad_batches": 2, "val_check_interval": 1}
    net = Kinds([1.0] * 6)
    fit(net, [*triggers(), SavesFirst()], epochs=1, **options)
    assert [event.arguments["kind"] for event in net.growth_log] == [1, 2]
    resumed = Kinds([1.0] * 6)
    fit(resumed, triggers(), epochs=1, ckpt_path="step=1.ckpt", **options)
    assert [event.arguments["kind"] for event in resumed.growth_log] == [1, 2]


# --------------------------------------------------------------------------------------------------------------- errors


def test_metric_that_is_none():
    with pytest.raises(MisconfigurationException, match=r"monitors 'val', but .* are \['loss', 'metric'\]"):
        fit(Scripted([1.0] * 4), [GrowOnPlateau("add_neck", "val")], epochs=1, num_sanity_val_steps=2)


def test_two_that_a_checkpoint_could_not_tell_apart():
    class Brings(Scripted):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), *(GrowOnPlateau("add_neck", "metric", p) for p in (2, 3))]

    with pytest.raises(MisconfigurationException, match=r"two GrowOnPlateau\{'growth': 'add_neck'.*tell them apart"):
        fit(Brings([1.0]))
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `GrowOnPlateau`"):
        Trainer(callbacks=[GrowOnPlateau("add_neck", "metric", patience) for patience in (2, 3)])
    keys = [
        GrowOnPlateau(growth, monitor, arguments=arguments).state_key
        for growth in ("add_neck", "add_patch")
        for monitor in ("one", "other")
        for arguments in ({}, {"at": 1}, {"at": 2})
    ]
    assert len(set(keys)) == len(keys)


def test_fit_without_validation_is_told():
    with pytest.warns(UserWarning, match="GrowOnPlateau will never grow, because this fit has no validation"):
        fit(Net(), [GrowOnPlateau("add_neck", "metric")], epochs=1)
