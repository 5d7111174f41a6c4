"""Logs, tables, pictures and previews show the cohorts of a widened component, if they differ."""

import csv
import io

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from torch import nn

from helpers import BATCHES, LRTrace, Net, example_factors, fit
from structurenet_pl import (
    AgeDecay,
    Clock,
    Components,
    DepthDecay,
    GrowEvery,
    GrowthEvent,
    LARSScaler,
    LRFactor,
    RoleLR,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    came_from,
    explain,
    growth,
    plot_strata,
    preview,
    widen,
)
from structurenet_pl.monitoring.strata_file import read_strata_file
from structurenet_pl.monitoring.tensorboard import growth_table

EPOCHS = 6


class Widening(Net):
    """Its body grows in width, and can be narrowed to its newest units."""

    @growth(role="new")
    def widen_body(self, by: int = 2):
        widen(self.body[0], self.body[3], width=self.body[0].out_features + by)

    @growth()
    def keep_newest(self, units: int):
        width = self.body[0].out_features
        keep = list(range(width - units, width))
        narrow, reader = nn.Linear(6, units), nn.Linear(units, 8)
        for parameter in (narrow.weight, narrow.bias):
            came_from(parameter, keep)
        came_from(reader.weight, keep, dim=1)
        self.body[0], self.body[3] = narrow, reader

    @growth()
    def insert_in_front(self):
        """The newborn gets a name from its event, because its path is the name of the one behind it."""
        self.body.insert(0, nn.Linear(6, 9))
        self.body[1].weight = nn.Parameter(torch.randn(8, 9))
        self.body[1].in_features = 9

    @growth()
    def remove_patch(self):
        del self.patches[0]


WIDER = GrowEvery("widen_body", 2, limit=2)
FORESEEN = [one for one in example_factors() if not one.needs_gradients and one.basis != "density"]


def trained(callbacks, net=None, epochs=EPOCHS, **kwargs):
    """A run that logs every step: Trainer, monitor, and the rows of the log by step."""
    monitor, logger = StrataMonitor(table=False, norms=True), CSVLogger("logs", name=None)
    options = {"logger": logger, "log_every_n_steps": 1} | kwargs
    trainer = fit(net or Widening(), [*callbacks, monitor], epochs=epochs, **options)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]
    by_step = {}
    for row in rows:
        by_step.setdefault(int(row["step"]), {}).update(row)
    return trainer, monitor, by_step


def by_name(history):
    """The learning rates of each component or cohort by step, nan where it has no row."""
    steps = np.arange(history.steps[-1] + 1)
    return dict(zip(history.components, history.at(steps).lrs.tolist(), strict=True))


def lived(values):
    return {step: value for step, value in enumerate(values) if not np.isnan(value)}


def test_logs_show_what_each_event_added():
    decay = SedimentaryDecay([("active", 0, 1.0), ("old", 3, 0.5)], roles={})
    trainer, _, rows = trained([decay, Warmup(2), WIDER])
    # 4 steps in an epoch; event 1 after step 8, event 2 after step 16; the components are active until step 12
    assert "lr/body.0@1" not in rows[7]
    assert [rows[step]["lr/body.0"] for step in (7, 8, 12, 23)] == [0.1, 0.1, 0.05, 0.05]
    assert [rows[step]["lr/body.0@1"] for step in (8, 12, 20)] == [0.05, 0.1, 0.05]
    assert [rows[step]["lr/body.0@2"] for step in (16, 20)] == [0.05, 0.1]
    assert rows[16]["strata.details/base_lr/body.0@2"] == 0.1
    assert [rows[16][f"strata/factor/Warmup/body.0{which}"] for which in ("", "@1", "@2")] == [1.0, 1.0, 0.5]
    assert [rows[16][f"strata/factor/SedimentaryDecay/body.0{which}"] for which in ("", "@1", "@2")] == [0.5, 1.0, 1.0]
    assert [rows[20][f"strata.details/age/body.0{which}"] for which in ("", "@1", "@2")] == [5, 3, 1]
    assert [rows[20][f"strata/stratum/body.0{which}"] for which in ("", "@1", "@2")] == [1, 1, 0]
    assert rows[20]["strata/lr_range/max"] == 0.1
    # the components that were not widened have no cohorts, and norms are those of whole tensors
    assert not [tag for row in rows.values() for tag in row if tag.endswith("@1") and "body" not in tag]
    assert not [tag for row in rows.values() for tag in row if "@" in tag and tag.startswith("norms/")]
    lr = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}["body.0"]
    assert lr == rows[23]["lr/body.0@2"]  # the fastest


def test_explain_has_an_entry_for_each_cohort():
    buffer = io.StringIO()
    decay = SedimentaryDecay([("active", 0, 1.0), ("old", 3, 0.5)], roles={})
    trainer, *_ = trained([decay, RoleLR({"new": 0.2}), Components({"body.*": "scaffold"}), WIDER])
    entries = explain(trainer, Console(file=buffer))
    cohorts = [entry for entry in entries if entry.group == "body.0"]
    assert [(entry.title, entry.cohort, entry.component.role) for entry in cohorts] == [
        ("body.0", None, "scaffold"),
        ("body.0@1", 1, "new"),
        ("body.0@2", 2, "new"),
    ]
    assert [entry.parameters for entry in cohorts] == [8 * 7, 2 * 7, 2 * 7]
    assert sum(entry.parameters for entry in entries) == sum(p.numel() for p in trainer.lightning_module.parameters())
    assert [entry.component.born.generation for entry in cohorts] == [0, 1, 2]
    assert [entry.age.epoch for entry in cohorts] == [6, 4, 2]
    assert [entry.factors for entry in cohorts] == [
        {"SedimentaryDecay": 0.5, "RoleLR": 1.0},
        {"SedimentaryDecay": 0.5, "RoleLR": 0.2},
        {"SedimentaryDecay": 1.0, "RoleLR": 0.2},
    ]
    assert [entry.lr for entry in cohorts] == [0.1 * 0.5, 0.1 * (0.2 * 0.5), 0.1 * 0.2]
    assert [entry.stratum for entry in cohorts] == ["old", "old", "active"]
    words = [line.split()[:2] for line in buffer.getvalue().splitlines() if line.startswith("body.0")]
    assert words == [["body.0", "scaffold"], ["body.0@1", "new"], ["body.0@2", "new"]]


def test_groups_of_a_component_are_told_apart():
    """Under LARS biases have groups of their own; the bias of the reader has no new entries."""
    trainer, _, rows = trained([LARSScaler(0.1), Warmup(9), WIDER])
    entries = {
        (entry.group, entry.cohort): (entry.parameters, entry.leads) for entry in explain(trainer, Console(quiet=True))
    }
    body = {key: value for key, value in entries.items() if key[0].startswith(("body.0", "body.3"))}
    assert body == {
        ("body.0", None): (8 * 6, True),
        ("body.0", 1): (2 * 6, True),
        ("body.0", 2): (2 * 6, True),
        ("body.0/1d", None): (8, False),
        ("body.0/1d", 1): (2, False),
        ("body.0/1d", 2): (2, False),
        ("body.3", None): (8 * 8, True),
        ("body.3", 1): (8 * 2, True),
        ("body.3", 2): (8 * 2, True),
        ("body.3/1d", None): (8, False),
    }
    assert rows[8]["lr/body.0@1"] == pytest.approx(rows[8]["lr/body.0"] / 9)


@pytest.mark.parametrize("factors", [[], [DepthDecay()], [Warmup(start=1.0), AgeDecay(0.5, per=9)]])
def test_equal_cohorts_are_not_shown(factors):
    trainer, monitor, rows = trained([*factors, WIDER])
    assert not [tag for row in rows.values() for tag in row if "@" in tag and not tag.startswith("newborn/")]
    assert monitor.strata.components == ("body.0", "body.3", "body.4", "head")
    entries = explain(trainer, Console(quiet=True))
    assert [entry.title for entry in entries] == ["body.0", "body.3", "body.4", "head"]
    assert entries[0].parameters == 12 * 7
    seen = preview([*factors, WIDER], (), Widening(), EPOCHS, BATCHES, base_lr=0.1)
    assert seen.components == monitor.strata.components


class Passing(LRFactor):
    """Newborn entries are slow for the second epoch of their life only."""

    def factor(self, component, now):
        return 0.5 if component.born.generation and now.age(component).epoch == 1 else 1.0


def test_a_cohort_that_has_differed_stays_shown():
    trainer, monitor, rows = trained([Passing(), GrowEvery("widen_body", 2, limit=1)])
    history = by_name(monitor.strata)
    assert monitor.strata.components == ("body.0", "body.0@1", "body.3", "body.3@1", "body.4", "head")
    # born after step 8, it differs from step 12 on; before that, one row stands for both
    assert lived(history["body.0@1"]) == {step: 0.05 if step < 16 else 0.1 for step in range(12, 24)}
    assert lived(history["body.0"]) == dict.fromkeys(range(24), 0.1)
    for step, row in rows.items():
        assert ("lr/body.0@1" in row) == (step >= 12)
    assert [entry.title for entry in explain(trainer, Console(quiet=True))][:2] == ["body.0", "body.0@1"]
    assert monitor.shown_by_cohort == {"body.0", "body.3"}


def test_a_cohort_is_shown_in_a_resumed_run(tmp_path):
    def callbacks():
        return [Passing(), GrowEvery("widen_body", 2, limit=1)]

    trainer, *_ = trained(callbacks(), epochs=5)
    trainer.save_checkpoint(tmp_path / "equal_again.ckpt")
    _, whole, rows = trained(callbacks(), epochs=7)
    again, resumed, later = trained(callbacks(), epochs=7, ckpt_path=tmp_path / "equal_again.ckpt")
    assert resumed.strata.components == whole.strata.components
    np.testing.assert_array_equal(resumed.strata.lrs, whole.strata.lrs)
    np.testing.assert_array_equal(resumed.strata.steps, whole.strata.steps)
    from_file = read_strata_file(again.logger.log_dir)
    assert from_file.components == resumed.strata.components
    np.testing.assert_array_equal(from_file.lrs, resumed.strata.lrs)
    assert {tag for tag in later[27] if "@" in tag} == {tag for tag in rows[27] if "@" in tag} != set()
    assert "body.0@1" in [entry.title for entry in explain(again, Console(quiet=True))]


class Rest(LRFactor):
    """Old entries rest from epoch 3 on, all entries from epoch 4 on."""

    freezes = True

    def factor(self, component, now):
        old = component.matches("body.*") and not component.born.generation
        return 0.0 if component.matches("body.*") and now.clock.epoch >= (3 if old else 4) else 1.0


def test_a_single_cohort_at_0_is_not_frozen():
    trainer, monitor, rows = trained([Rest(), GrowEvery("widen_body", 2)])
    assert [(rows[step]["lr/body.0"], rows[step]["strata/frozen/body.0"]) for step in (8, 12, 16)] == [
        (0.1, 0),
        (0, 0),
        (0, 1),
    ]
    assert [(rows[step]["lr/body.0@1"], rows[step]["strata/frozen/body.0@1"]) for step in (12, 16)] == [
        (0.1, 0),
        (0, 1),
    ]
    history = monitor.strata
    frozen = dict(zip(history.components, history.at(np.arange(24)).frozen.tolist(), strict=True))
    # the second widening falls into the frozen time: what it adds is frozen from its first step on
    for name in ("body.0", "body.0@1", "body.0@2"):
        assert [step for step, rests in enumerate(frozen[name]) if rests] == list(range(16, 24))
    assert not any(frozen["head"])
    assert plot_strata(trainer, kind="heat_map").axes
    seen = preview([Rest(), GrowEvery("widen_body", 2)], (), Widening(), EPOCHS, BATCHES, base_lr=0.1)
    np.testing.assert_array_equal(seen.frozen, history.at(seen.steps).frozen)


def test_parts_of_the_network_and_the_progress_bar_count_cohorts():
    class Shown(Callback):
        def on_train_batch_end(self, trainer, *args):
            self.lrs = {tag: float(lr) for tag, lr in trainer.progress_bar_metrics.items() if tag.startswith("lr_")}

    logger, shown = CSVLogger("logs", name=None), Shown()
    decay = SedimentaryDecay([("active", 0, 1.0), ("old", 3, 0.5)], roles={})
    monitor = StrataMonitor(max_components=0, progress_bar=True, norms=True, table=False)
    fit(Widening(), [decay, WIDER, monitor, shown], epochs=5, logger=logger, log_every_n_steps=1)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        row = next(row for row in csv.DictReader(file) if row["step"] == "16" and row["strata/components/old"])
    # four components are old; of the two that were widened two cohorts each are active
    assert (float(row["strata/components/old"]), float(row["strata/components/active"])) == (4, 4)
    assert (float(row["lr/old/max"]), float(row["lr/active/min"])) == (0.05, 0.1)
    assert shown.lrs == pytest.approx({"lr_active": 0.1, "lr_old": 0.05})


@pytest.mark.parametrize(("units", "gone"), [(3, {"body.0"}), (2, {"body.0", "body.0@1"})])
def test_the_row_of_a_cohort_ends_with_its_entries(units, gone):
    callbacks = [AgeDecay(0.5, unit="epoch"), WIDER, GrowEvery("keep_newest", 5, limit=1, arguments={"units": units})]
    trainer, monitor, rows = trained(callbacks, epochs=7)
    starts = {"body.0": 0, "body.0@1": 8, "body.0@2": 16}
    history = by_name(monitor.strata)
    for name, start in starts.items():
        steps = range(start, 20 if name in gone else 28)
        assert list(lived(history[name])) == list(steps)
        assert [step for step, row in sorted(rows.items()) if f"lr/{name}" in row] == list(steps)
    left = [entry.title for entry in explain(trainer, Console(quiet=True)) if entry.group == "body.0"]
    assert left == [name for name in starts if name not in gone]
    assert plot_strata(monitor.strata).axes
    seen = preview(callbacks, (), Widening(), 7, BATCHES, base_lr=0.1)
    assert seen.components == monitor.strata.components
    np.testing.assert_array_equal(seen.lrs, monitor.strata.at(seen.steps).lrs)


def test_a_cohort_is_told_from_a_component_that_is_named_after_its_event():
    callbacks = [AgeDecay(0.5, unit="epoch"), GrowEvery("insert_in_front", 2, limit=1)]
    trainer, monitor, rows = trained(callbacks, epochs=4)
    (event,) = trainer.lightning_module.growth_log
    assert (event.born, event.widened) == (("body.0@1",), ("body.0",))
    assert monitor.strata.components == ("body.0", "body.0@1+", "body.3", "body.4", "head", "body.0@1")
    assert [rows[8][f"lr/body.0{which}"] for which in ("", "@1", "@1+")] == [0.025, 0.1, 0.1]
    seen = preview(callbacks, (), Widening(), 4, BATCHES, base_lr=0.1)
    assert seen.components == monitor.strata.components
    np.testing.assert_array_equal(seen.lrs, monitor.strata.at(seen.steps).lrs)


@pytest.mark.parametrize("source", ["triggers", "log", "grown"])
def test_a_preview_is_the_run(source):
    triggers = [
        WIDER,
        GrowEvery("add_patch", 6, unit="step", limit=1, arguments={"at": 0}),
        GrowEvery("widen_body", 18, unit="step", limit=1, arguments={"by": 1}),
        GrowEvery("remove_patch", 5, limit=1),
    ]
    net, used = Widening(), LRTrace()
    _, monitor, _ = trained([*FORESEEN, *triggers, used], net)
    if source == "triggers":
        seen = preview([*FORESEEN, *triggers], (), Widening(), EPOCHS, BATCHES, base_lr=0.1)
    elif source == "log":
        seen = preview(FORESEEN, net.growth_log, Widening(), EPOCHS, BATCHES, base_lr=0.1)
    else:
        seen = preview(FORESEEN, (), net, EPOCHS, BATCHES, base_lr=0.1)
    recorded = monitor.strata.at(seen.steps)
    assert seen.components == recorded.components
    assert {"body.0@2", "body.0@3", "body.3@4"} <= set(seen.components)
    np.testing.assert_array_equal(seen.lrs, recorded.lrs)
    np.testing.assert_array_equal(seen.frozen, recorded.frozen)

    # the optimizer holds the lr of the fastest
    for step, row in enumerate(used.rows):
        lrs = dict(zip(seen.components, seen.lrs[:, step].tolist(), strict=True))
        for group, lr in row.items():
            assert lr == np.nanmax([value for name, value in lrs.items() if name.split("@")[0] == group])


def test_a_log_without_a_module_knows_no_cohorts():
    log = [GrowthEvent("widen", {}, Clock(epoch=1), widened=("stem",))]
    assert preview([Warmup(3)], log, epochs=4).components == ("founding network",)


def test_growth_table_says_how_many_entries_were_added():
    net = Widening()
    net.widen_body()
    net.add_neck()
    wider, deeper = growth_table(net.growth_log).splitlines()[2:]
    assert "widened: `body.0`, `body.3`<br>+30 entries |" in wider  # 2 x (6 + 1) and 8 x 2
    assert "entries" not in deeper
