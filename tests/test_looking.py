"""Monitor, table and picture show the lrs that the optimizer used."""

import csv
import io

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import LRTrace, Net, Plain, example_factors, fit
from structurenet_pl import GrowEvery, LARSScaler, SedimentaryDecay, StrataMonitor, Warmup, explain

GROWING = [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]


def logged(folder):
    """Step -> value of every scalar tag, read back from the event file."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {point.step: point.value for point in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("every", [1, 3])
def test_logged_lrs_are_those_that_were_used(every):
    record, logger = LRTrace(), TensorBoardLogger("logs", name=None)
    # accumulation: a step is not a batch
    options = {"logger": logger, "log_every_n_steps": every, "accumulate_grad_batches": 2}
    fit(Net(), [*example_factors(), *GROWING, StrataMonitor(), record], epochs=4, **options)
    curves = logged(logger.log_dir)
    steps = {step for step in range(8) if (step + 1) % every == 0} | {2, 4}  # and the first after each growth
    for name, born in {"body.0": 0, "body.3": 0, "head": 0, "patches.0": 2, "necks.0": 4}.items():
        used = {step: record.rows[step][name] for step in steps if step >= born}
        assert curves[f"lr/{name}"] == pytest.approx(used, rel=1e-6)  # event files hold float32
    assert curves["age/necks.0"][4] == 0
    assert curves["factor/Warmup/necks.0"][4] == pytest.approx(1 / 3, rel=1e-6)  # float32
    assert curves["factor/GrowthResponder/body.0"][2] == pytest.approx(0.7, rel=1e-6)  # float32
    assert curves["base_lr/head"][4] == pytest.approx(0.1, rel=1e-6)  # float32
    assert curves["stratum/body.0"][4] == 1
    assert "stratum/patches.0" not in curves


def test_every_logger_gets_a_row():
    loggers = [CSVLogger("one"), CSVLogger("two")]
    fit(Plain(), [Warmup(newborn_only=False), StrataMonitor()], epochs=2, logger=loggers, log_every_n_steps=2)
    for logger in loggers:
        with open(f"{logger.log_dir}/metrics.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["lr/head"]]
        assert [int(row["step"]) for row in rows] == [1, 3, 5, 7]
        assert float(rows[-1]["lr/head"]) == 0.1 * (2 / 5)


def test_monitor_alone_shows_the_scheduler():
    logger = CSVLogger("logs")
    fit(Plain(), [StrataMonitor()], epochs=1, logger=logger, log_every_n_steps=1)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        assert {row["lr/body.0"] for row in csv.DictReader(file) if row["lr/body.0"]} == {"0.1"}


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


def test_monitor_without_logger_warns():
    with pytest.warns(UserWarning, match="StrataMonitor has no logger"):
        fit(Plain(), [StrataMonitor()], epochs=1)


def test_two_factors_of_a_class_are_told_apart():
    trainer = fit(Plain(), [Warmup(newborn_only=False), Warmup(length=2, newborn_only=False)], epochs=1)
    assert explain(trainer, Console(file=io.StringIO()))[0].factors == {"Warmup_1": 0.4, "Warmup_2": 1.0}


def test_explain_without_us():
    with pytest.raises(ValueError, match="give it an LR callback"):
        explain(Trainer(logger=False, enable_checkpointing=False))
