"""Table and picture show the lrs that the optimizer used."""

import io

import pytest
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from helpers import Half, Net, Plain, fit
from structurenet_pl import GrowEvery, LARSScaler, SedimentaryDecay, Warmup, explain

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


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_number_can_be_read_on_a_narrow_terminal(width):
    buffer = io.StringIO()
    trainer = fit(Net(), [Warmup(), SedimentaryDecay(), *GROWING], epochs=3)
    entries = explain(trainer, Console(file=buffer, width=width, force_terminal=True, color_system=None))
    lines = {line.split()[0]: line.split() for line in buffer.getvalue().splitlines() if line.split()}
    for entry in entries:
        assert lines[entry.group][1] == entry.component.role
        assert lines[entry.group][-1] == f"{entry.lr:.3g}"


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


def test_explain_without_us():
    with pytest.raises(ValueError, match="give it an LR callback"):
        explain(Trainer(logger=False, enable_checkpointing=False))
