"""Table and picture show the lrs that the optimizer used."""

import io

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from rich.cells import cell_len
from rich.console import Console
from torch import nn

from helpers import Half, Net, Plain, fit
from structurenet_pl import (
    DepthDecay,
    GrowEvery,
    GrowthResponder,
    LARSScaler,
    RoleLR,
    SedimentaryDecay,
    Warmup,
    explain,
)

GROWING = [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]


def test_explain_gives_the_product_as_data_and_table():
    net, buffer = Net(), io.StringIO()
    trainer = fit(net, [Warmup(), SedimentaryDecay([("active", 0, 1.0), ("old", 2, 0.25)]), *GROWING], epochs=3)
    rates = explain(trainer, Console(file=buffer))
    assert [rate.component for rate in rates] == list(net.components.values())
    assert sum(rate.parameters for rate in rates) == sum(tensor.numel() for tensor in net.parameters())
    by_name = {rate.component.name: rate for rate in rates}
    assert by_name["body.0"].factors == {"Warmup": 1.0, "SedimentaryDecay": 0.25}
    assert (by_name["body.0"].base_lr, by_name["body.0"].lr, by_name["body.0"].stratum) == (0.1, 0.025, "old")
    assert by_name["necks.0"].factors == {"Warmup": 0.4, "SedimentaryDecay": 1.0}
    assert by_name["necks.0"].age.epoch == 1
    assert (by_name["patches.0"].stratum, by_name["patches.0"].stratum_number) == ("patch", None)
    lines = buffer.getvalue().splitlines()
    for rate in rates:
        (line,) = [line for line in lines if line.split() and line.split()[0] == rate.component.name]
        assert line.split()[-1] == f"{rate.lr:.3g}"
        assert line.split()[1] == rate.component.role


def test_groups_of_a_component_are_told_apart():
    trainer = fit(Plain(), [LARSScaler(0.1)], epochs=1)
    rates = explain(trainer, Console(file=io.StringIO()))
    assert [(rate.group, rate.leads) for rate in rates] == [
        *[("body.0", True), ("body.0/1d", False), ("body.3", True), ("body.3/1d", False)],
        *[("body.4/1d", True), ("head", True), ("head/1d", False)],
    ]
    assert {rate.lr for rate in rates if rate.group.endswith("/1d")} == {0.1}
    assert 0.1 not in {rate.lr for rate in rates if not rate.group.endswith("/1d")}


def printed(trainer, width):
    """What explain prints on a terminal of this width; no line is wider."""
    buffer = io.StringIO()
    entries = explain(trainer, Console(file=buffer, width=width, force_terminal=True, color_system=None))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return entries, lines


@pytest.fixture(scope="module")
def grown():
    factors = [Warmup(), SedimentaryDecay(), RoleLR({"nobody": 0.5}), DepthDecay(), GrowthResponder()]
    return fit(Net(), [*factors, *GROWING], epochs=3)


def test_a_narrow_table_leaves_out_whole_columns_and_says_which(grown):
    counts = []
    for width in range(70, 140, 5):
        entries, lines = printed(grown, width)
        rows = {line.split()[0]: line.split() for line in lines if line.split()}
        for entry in entries:
            assert rows[entry.group][1] == entry.component.role
            assert rows[entry.group][-1] == f"{entry.lr:.3g}"
        # a column that is left out is named below the table
        assert all(word in " ".join(lines) for word in ("params", "depth", "stratum", "age"))
        heading = " ".join(lines[:4])
        told = " ".join(rows.get("all", []))
        assert ("RoleLR 1" in told, "base lr 0.1" in told) == ("Role" not in heading, "base" not in heading)
        counts.append(len(rows["body.0"]))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (7, 13)


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_terminal_too_narrow_for_a_table_gets_words(grown, width):
    entries, lines = printed(grown, width)
    told = " ".join(" ".join(lines).split())
    for entry in entries:
        assert f"{entry.group} ({entry.component.role}" in told
        assert f"lr {entry.lr:.3g} = 0.1" in told
    assert "RoleLR" not in told  # it is 1
    assert "necks.0 (neck, active, age 1) lr 0.0" in told


def test_long_names_are_never_cut():
    class Nested(Plain):
        def __init__(self):
            super().__init__()
            self.a_backbone_with_a_long_name = nn.ModuleDict({f"stage_{number}": self.body for number in range(1)})
            del self.body

        def forward(self, x):
            return self.head(self.a_backbone_with_a_long_name["stage_0"](x))

    entries, lines = printed(fit(Nested(), [Warmup(newborn_only=False), DepthDecay()], epochs=1), 40)
    names = {entry.component.name for entry in entries}
    assert {name for name in names if any(name in line for line in lines)} == names


def test_columns_are_aligned_by_what_a_terminal_shows():
    class Wide(Plain):
        def __init__(self):
            super().__init__()
            self.層 = self.body  # each such letter takes two columns
            del self.body

        def forward(self, x):
            return self.head(self.層(x))

    buffer = io.StringIO()
    explain(fit(Wide(), [Warmup(newborn_only=False)], epochs=1), Console(file=buffer, width=80))
    lines = buffer.getvalue().splitlines()
    rule = next(number for number, line in enumerate(lines) if set(line) == {"─"})
    rows = lines[rule + 1 : rule + 5]
    assert [row.split()[0] for row in rows] == ["層.0", "層.3", "層.4", "head"]
    assert {cell_len(row) for row in rows} == {len(lines[rule])}


def test_groups_that_differ_in_name_only_share_a_row():
    class Decayed(Plain):
        def configure_optimizers(self):
            weights = [p for p in self.parameters() if p.ndim > 1]
            biases = [p for p in self.parameters() if p.ndim == 1]
            groups = [{"params": weights, "name": "decay"}, {"params": biases, "weight_decay": 0.0, "name": "no_decay"}]
            return torch.optim.SGD(groups, lr=0.1, weight_decay=1e-3)

    entries, lines = printed(fit(Decayed(), [Warmup(newborn_only=False)], epochs=1), 200)
    assert len(entries) == 7
    assert [line.split()[0] for line in lines if line.startswith(("body", "head"))] == [
        *("body.0", "body.3", "body.4", "head")
    ]
    sizes = [line.split()[3] for line in lines if line.startswith(("body", "head"))]
    assert sizes == ["56", "72", "16", "27"]


def test_the_title_says_which_step():
    class Look(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 5:
                self.lines = printed(trainer, 80)[1]

    look = Look()
    trainer = fit(Plain(), [Warmup(newborn_only=False), look], epochs=2)
    assert look.lines[1] == "Learning rates at epoch 1, step 5"
    assert printed(trainer, 80)[1][1] == "Learning rates that a next step would have (epoch 2, step 8)"


def test_empty_columns_are_left_out():
    buffer = io.StringIO()
    explain(fit(Plain(), [Warmup(newborn_only=False)], epochs=1), Console(file=buffer))
    assert "stratum" not in buffer.getvalue()
    assert "role" not in buffer.getvalue()


def test_two_factors_of_a_class_are_told_apart():
    trainer = fit(Plain(), [Warmup(newborn_only=False), Warmup(length=2, newborn_only=False)], epochs=1)
    assert explain(trainer, Console(file=io.StringIO()))[0].factors == {"Warmup_1": 0.4, "Warmup_2": 1.0}


def test_explain_takes_what_was_just_written_as_the_base():
    class Write(Callback):
        def on_train_batch_start(self, trainer, *args):
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 0.03
            self.rates = explain(trainer, Console(file=io.StringIO()))

    write = Write()
    with pytest.warns(UserWarning, match="set to 0.03 from outside"):
        fit(Plain(), [Half(), write], epochs=1)
    assert {(rate.base_lr, rate.lr) for rate in write.rates} == {(0.03, 0.015)}


@pytest.mark.parametrize("width", [120, 20])
def test_components_that_the_user_keeps_from_training_are_marked(width):
    class Backbone(Plain):
        def __init__(self):
            super().__init__()
            self.body[0].requires_grad_(False)

    trainer = fit(Backbone(), [Half()], epochs=1)
    entries, lines = printed(trainer, width)
    assert [entry.title for entry in entries if not entry.trained] == ["body.0"]
    text = " ".join(" ".join(lines).split())
    assert text.count("not trained") == 2  # in the table, and in a line below it
    assert "not trained, because requires_grad is False: body.0" in text


def test_explain_without_us():
    with pytest.raises(ValueError, match="give it an LR callback"):
        explain(Trainer(logger=False, enable_checkpointing=False))
