"""A preview shows, to the last bit, the learning rates of the run that it is a preview of."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from helpers import BATCHES, LRTrace, Net, Plain, assert_same, example_factors, fit, weights
from structurenet_pl import (
    AgeDecay,
    Clock,
    Components,
    DensityScaler,
    GrowEvery,
    GrowOnPlateau,
    GrowthEvent,
    LARSScaler,
    LRFactor,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    growth,
    plot_strata,
    preview,
    widen,
)
from structurenet_pl.monitoring.strata_file import read_strata_file

EPOCHS = 5
TRIGGERS = [
    GrowEvery("add_patch", 6, unit="step", limit=2, arguments={"at": 0}),
    GrowEvery("add_neck", 2),
    GrowEvery("remove_patch", 4, limit=1),
]
FORESEEN = [one for one in example_factors() if not one.needs_gradients and one.basis != "density"]


class Changing(Net):
    @growth()
    def add_pair(self):
        self.necks.append(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))

    @growth()
    def remove_patch(self):
        del self.patches[0]


def rows(history):
    """The learning rates of each step, by component."""
    return [
        {name: lr for name, lr in zip(history.components, column, strict=True) if not np.isnan(lr)}
        for column in history.lrs.T.tolist()
    ]


def trained(module, callbacks, **kwargs):
    """The learning rates of each step of a run, by component."""
    record = LRTrace()
    fit(module, [*callbacks, record], epochs=EPOCHS, **kwargs)
    return record.rows


@pytest.mark.parametrize("source", ["triggers", "log", "grown", "grown, with its log"])
def test_preview_of_a_module_is_the_run(source):
    net = Changing()
    used = trained(net, [*FORESEEN, *TRIGGERS])
    if source == "triggers":
        seen = preview([*FORESEEN, *TRIGGERS], (), Changing(), EPOCHS, BATCHES, base_lr=0.1)
    elif source == "log":
        seen = preview(FORESEEN, net.growth_log, Changing(), EPOCHS, base_lr=0.1)
    else:
        seen = preview(FORESEEN, net.growth_log if "log" in source else (), net, EPOCHS, base_lr=0.1)

    assert rows(seen) == used
    assert [step for step, _ in seen.events] == [6, 8, 12, 16, 16]
    assert seen.components[:3] == ("body.0", "body.3", "body.4")


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_base_lr_may_be_a_function(interval):
    schedule = partial(CosineAnnealingLR, T_max=7)
    base = [row["head"] for row in trained(Plain(scheduler=schedule, interval=interval), [Warmup(start=1.0)])]
    used = trained(Net(scheduler=schedule, interval=interval), [*FORESEEN, *TRIGGERS[:2]])
    seen = preview([*FORESEEN, *TRIGGERS[:2]], (), Net(), EPOCHS, BATCHES, base_lr=base.__getitem__)
    assert rows(seen) == used


def test_preview_of_a_plain_module_takes_its_roles():
    callbacks = [Components({"body.3.weight": "pretrained", "body.*": "scaffold"}), *FORESEEN]
    used = trained(Plain(), callbacks)
    assert rows(preview(callbacks, module=Plain(), epochs=EPOCHS, steps_per_epoch=BATCHES, base_lr=0.1)) == used
    assert "body.3.weight" in used[0]


def test_patterns_split_what_is_born_on_the_way():
    callbacks = [Components({"necks.*.1": "adapter"}), *FORESEEN, GrowEvery("add_pair", 2, limit=1)]
    used = trained(Changing(), callbacks)
    assert rows(preview(callbacks, (), Changing(), EPOCHS, BATCHES, base_lr=0.1)) == used
    assert {"necks.0", "necks.0.1"} < used[-1].keys()


class ByWidth(LRFactor):
    unit = "generation"

    def factor(self, component, now):
        return 1 / component.shapes[0][0]


class Wider(Net):
    @growth()
    def wider(self):
        widen(self.body[0], self.body[3], self.body[0].out_features + 4, noise=0.1)


@pytest.mark.parametrize("by_log", [False, True])
def test_shapes_are_those_of_each_moment(by_log):
    net, callbacks = Wider(), [ByWidth(), GrowEvery("wider", 2, limit=2)]
    used = trained(net, callbacks)
    assert rows(preview(callbacks, net.growth_log if by_log else (), Wider(), EPOCHS, BATCHES, base_lr=0.1)) == used
    assert used[0]["body.0"] > used[-1]["body.0"]


def test_preview_is_what_the_monitor_records():
    monitor = StrataMonitor(table=False)
    fit(Net(), [*FORESEEN, *TRIGGERS[:1], monitor], epochs=EPOCHS, logger=CSVLogger("logs"))
    seen, recorded = preview([*FORESEEN, *TRIGGERS[:1]], (), Net(), EPOCHS, BATCHES, base_lr=0.1), monitor.strata
    assert (seen.components, seen.events) == (recorded.components, recorded.events)
    every = recorded.at(seen.steps)
    np.testing.assert_array_equal(seen.lrs, every.lrs)
    np.testing.assert_array_equal(seen.frozen, every.frozen)


def test_a_module_that_grew_before_the_run():
    net = Net()
    net.add_neck()
    callbacks = [Components({"necks.*": "adapter", "body.0": "pretrained"}), *FORESEEN, *TRIGGERS[:2]]
    seen = preview(callbacks, (), net, EPOCHS, BATCHES, base_lr=0.1)
    assert net.components["body.0"].role == "scaffold"
    assert rows(seen) == trained(net, callbacks)


def test_roles_come_from_the_callbacks():
    callbacks = [Components({"body.0": "pretrained"}), *FORESEEN]
    assert rows(preview(callbacks, (), Net(), EPOCHS, BATCHES, base_lr=0.1)) == trained(Net(), callbacks)


def test_log_and_callbacks_are_enough():
    """What goes by age and role needs no module; the founding network is one component then."""
    callbacks = [Warmup(3), AgeDecay(0.5), SedimentaryDecay([("active", 0, 1.0), ("old", 2, 0.1)])]
    net = Changing()
    used = trained(net, [*callbacks, *TRIGGERS])
    seen = rows(preview(callbacks, net.growth_log, epochs=EPOCHS, base_lr=0.1))
    founding = [row.pop("founding network") for row in seen]
    assert founding == [row["body.0"] for row in used]
    assert seen == [{name: lr for name, lr in row.items() if name[:5] in ("patch", "necks")} for row in used]


def test_events_by_hand_need_epochs_only():
    log = [
        GrowthEvent("add", {}, Clock(epoch=2), born=("patches.0",), role="patch"),
        GrowthEvent("drop", {}, Clock(epoch=4), removed=("patches.0",)),
    ]
    seen = preview([Warmup(2)], log, epochs=5, steps_per_epoch=3)
    assert seen.events == ((6, "+ patches.0"), (12, "- patches.0"))
    assert rows(seen)[5:13] == [
        {"founding network": 1.0},
        *[{"founding network": 1.0, "patches.0": 0.5}] * 3,
        *[{"founding network": 1.0, "patches.0": 1.0}] * 3,
        {"founding network": 1.0},
    ]


def test_what_is_born_after_the_end_is_not_shown():
    seen = preview([], [GrowthEvent("add", {}, Clock(epoch=9), born=("late",))], epochs=5)
    assert seen.components == ("founding network",)
    assert seen.events == ()


def test_module_and_random_numbers_stay_as_they_are():
    net = Net()
    before, state = weights(net), torch.get_rng_state()
    preview([*FORESEEN, *TRIGGERS[:2]], module=net, epochs=EPOCHS)
    assert net.growth_log == ()
    assert_same(weights(net), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_only_training_can_tell_is_said():
    callbacks = [LARSScaler(), DensityScaler(), GrowOnPlateau("add_neck", "val_loss", 3), Warmup(), *TRIGGERS]
    expected = "preview is without LARSScaler, DensityScaler, GrowOnPlateau, GrowEvery, GrowEvery, GrowEvery:"
    with pytest.warns(UserWarning, match=expected):
        seen = preview(callbacks, epochs=3)
    assert rows(seen) == [{"founding network": 1.0}] * 3
    with pytest.warns(UserWarning, match="preview is without LARSScaler, DensityScaler, GrowOnPlateau: only"):
        preview(callbacks[:-1], module=Net(), epochs=3)
    log = [GrowthEvent("add_neck", {}, Clock(epoch=1), born=("necks.0",))]  # says what the triggers would
    with pytest.warns(UserWarning, match="preview is without LARSScaler, DensityScaler: only"):
        preview(callbacks, log, epochs=3)


class Freeze(LRFactor):
    freezes = True

    def factor(self, component, now):
        return 1.0 if now.clock.epoch < component.depth else 0.0


def test_frozen_is_told_from_lr_0():
    halt = Warmup(start=0.0, length=1000, newborn_only=False)
    seen = preview([Freeze(), halt], module=Plain(), epochs=6)
    assert seen.components == ("body.0", "body.3", "body.4", "head")
    for depth, frozen in enumerate(seen.frozen.tolist()):
        assert frozen == [epoch >= depth and depth < 3 for epoch in range(6)]  # the last is never frozen
    assert (seen.lrs[seen.frozen] == 0).all()
    assert not preview([Warmup(length=2, start=0.0)], epochs=3).frozen.any()


def test_a_log_of_another_module_is_refused():
    log = [GrowthEvent("add_neck", {}, Clock(epoch=1), born=("necks.7",))]
    with pytest.raises(RuntimeError, match="event 1"):
        preview([Warmup()], log, Net())


@pytest.mark.parametrize(("steps_per_epoch", "label"), [(None, "epoch"), (3, "optimizer step")])
def test_the_axis_says_what_a_step_is(steps_per_epoch, label):
    history = preview([Warmup(newborn_only=False)], epochs=4, steps_per_epoch=steps_per_epoch)
    assert plot_strata(history).axes[-1].get_xlabel() == label
    assert plot_strata(history, kind="heat_map").axes[0].get_xlabel() == label


def test_a_module_without_parameters_has_nothing_to_show():
    assert preview([Warmup()], module=nn.ReLU(), epochs=2).components == ()


def test_the_lives_of_a_name_are_told_apart():
    """What is born where another was removed has its name, and is somebody else in preview, pictures and logs."""
    triggers = [
        GrowEvery("add_patch", 4, unit="step", limit=1, arguments={"at": 0}),
        GrowEvery("remove_patch", 2, limit=1),
        GrowEvery("add_patch", 3, limit=1, arguments={"at": 0}),
    ]
    monitor, used = StrataMonitor(table=False), LRTrace()
    net = Changing()
    fit(
        net,
        [*FORESEEN, *triggers, monitor, used],
        epochs=EPOCHS,
        logger=CSVLogger("logs", name="a"),
        log_every_n_steps=1,
    )
    assert [event.born for event in net.growth_log] == [("patches.0",), (), ("patches.0",)]
    seen = preview([*FORESEEN, *triggers], (), Changing(), EPOCHS, BATCHES, base_lr=0.1)
    again = preview(FORESEEN, net.growth_log, Changing(), EPOCHS, BATCHES, base_lr=0.1)
    recorded = monitor.strata
    for history in (seen, again, recorded, read_strata_file("logs/a/version_0")):
        assert history.components == ("body.0", "body.3", "body.4", "head", "patches.0", "patches.0 (2)")
        np.testing.assert_array_equal(seen.lrs, history.at(seen.steps).lrs)
    lives = [[row.get(name) for row in rows(seen)] for name in ("patches.0", "patches.0 (2)")]
    assert [first if first is not None else second for first, second in zip(*lives, strict=True)] == [
        row.get("patches.0") for row in used.rows
    ]
    assert all(first is None or second is None for first, second in zip(*lives, strict=True))
    with open("logs/a/version_0/metrics.csv") as file:
        logged = list(csv.DictReader(file))
    for name, life in zip(("patches.0", "patches.0 (2)"), lives, strict=True):
        written = {int(row["step"]): float(row[f"lr/{name}"]) for row in logged if row[f"lr/{name}"]}
        assert written == {step: lr for step, lr in enumerate(life) if lr is not None}
