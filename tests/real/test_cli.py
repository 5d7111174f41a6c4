"""Every callback and the module from YAML, in the LightningCLI of either namespace."""

import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import lightning.pytorch.cli
import pytest
import pytorch_lightning.cli
import torch
import yaml

import structurenet_pl
import structurenet_pl.pytorch_lightning as twin
from helpers import CALLBACKS, EXAMPLES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # between Lightning and jsonargparse
ROOT = Path(__file__).parents[2]
NAMESPACES = {"lightning": (lightning.pytorch, structurenet_pl), "pytorch_lightning": (pytorch_lightning, twin)}

ARGUMENTS = EXAMPLES | {  # values of every kind that YAML knows
    structurenet_pl.Components: {"roles": {"body.*": "scaffold", "head": "new"}},
    structurenet_pl.GrowEvery: {"growth": "deepen", "every": 2, "arguments": {"at": 1, "wide": [3, 4]}},
    structurenet_pl.GrowOnPlateau: {"growth": "deepen", "monitor": "val_loss", "arguments": {"at": 1}},
    structurenet_pl.ResetPatience: {"schedulers": False},
    structurenet_pl.StrataMonitor: {"norms": True, "max_components": 9, "table": False, "progress_bar": True},
}


@pytest.fixture(autouse=True)
def no_other_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cli.py"])


def command_line(namespace, callbacks, tmp_path):
    """The LightningCLI of a namespace, as it stands when its configuration has been read."""
    pl, package = NAMESPACES[namespace]

    class Net(package.GrowableModule):
        def __init__(self, width: int = 4):
            super().__init__()
            self.stem = torch.nn.Linear(width, 2)

    config = {"trainer": {"callbacks": callbacks, "accelerator": "cpu", "logger": False}, "model": {"width": 3}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return pl.cli.LightningCLI(Net, run=False, args=["--config", str(tmp_path / "config.yaml")])


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("kind", CALLBACKS)
def test_callbacks_from_yaml(namespace, kind, tmp_path):
    package = NAMESPACES[namespace][1]
    plain = yaml.safe_load(yaml.safe_dump(_plain(ARGUMENTS[kind])))
    cli = command_line(namespace, [{"class_path": f"{package.__name__}.{kind.__name__}", "init_args": plain}], tmp_path)
    (found,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, kind)]
    assert _plain(vars(found)) == _plain(vars(kind(**ARGUMENTS[kind])))
    assert cli.model.stem.in_features == 3


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_printed_configuration_gives_the_same_callbacks(namespace, tmp_path):
    every = [
        {"class_path": f"structurenet_pl.{kind.__name__}", "init_args": _plain(arguments)}
        for kind, arguments in ARGUMENTS.items()
    ]
    cli = command_line(namespace, every, tmp_path)
    printed = cli.parser.dump(cli.config)
    again = cli.parser.parse_string(printed)
    assert cli.parser.dump(again) == printed
    assert len(yaml.safe_load(printed)["trainer"]["callbacks"]) == len(CALLBACKS)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_help_shows_the_docstrings(kind, tmp_path, capsys):
    cli = command_line("lightning", [], tmp_path)
    with pytest.raises(SystemExit):
        cli.parser.parse_args([f"--trainer.callbacks.help=structurenet_pl.{kind.__name__}"])
    told = capsys.readouterr().out
    for name, parameter in inspect.signature(kind).parameters.items():
        assert f"--trainer.callbacks.{name}" in told
        described = told.split(f"--trainer.callbacks.{name} ")[-1].split("(")[0]
        assert len(described.split()) > 3, parameter


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"length": "fast"}, r"'structurenet_pl.Warmup'.*\n.*length.*\n.*Expected a <class 'float'>. Got value: fast"),
        ({"length": None}, "Warmup: length must be a number, got None; the default is 5"),
        ({"length": math.nan}, "Warmup: length must be a number, got nan; the default is 5"),
        ({"length": -1}, "length must be > 0, got -1.0; for no warm-up, leave the callback out"),
    ],
)
def test_the_cause_of_an_error_stands_in_the_last_lines(arguments, cause, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        command_line("lightning", [{"class_path": "structurenet_pl.Warmup", "init_args": arguments}], tmp_path)
    said = f"{capsys.readouterr().err}\n{error.value}".splitlines()
    assert re.search(cause, "\n".join(said[-15:])), said


def example(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_example_runs_with_the_configuration_that_it_prints(tmp_path):
    config = str(ROOT / "examples" / "config.yaml")
    printed = example("fit", "--config", config, "--print_config")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "printed.yaml").write_text(printed.stdout)
    again = example("fit", "--config", str(tmp_path / "printed.yaml"), "--print_config")
    assert again.stdout == printed.stdout
    done = example("fit", "--config", config)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.rglob("metrics.csv")
    header, *rows = (line.split(",") for line in metrics.read_text().splitlines())
    assert {"lr/stem", "lr/hidden.2", "lr/hidden.3", "lr/head"} <= set(header)
    accuracy = [row[header.index("val_accuracy")] for row in rows]
    assert float([value for value in accuracy if value][-1]) > 0.9


def _plain(value):
    """Arguments with tuples as lists, since YAML has no tuples, and without private attributes."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if not str(key).startswith("_")}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
