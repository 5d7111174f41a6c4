"""Imports go one way, one place assigns an lr, and the public names are those of the package."""

import ast
import sys
from pathlib import Path

import pytest

import structurenet_pl

ROOT = Path(structurenet_pl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

FOLDERS = ("surgery", "callbacks", "looking")

# Each may import from those above it, and from its own line.
LAYERS = [
    {"events", "moment", "lightning"},
    {"components", "devices", "net2net", "norms", "rng", "snapshots", "successors", "trial"}
    | {"founding", "looking.strata", "looking.tensorboard", "surgery.wrappers"},
    {"looking.plots", "looking.signals"},
    {"looking.history"},
    {"looking.reading"},
    {"density", "surgery.param_groups", "surgery.stand_in", "surgery.references"},
    {"state_kinds", "foreign_writes", "surgery.step_proof"},
    {"surgery.optimizer_state", "surgery.group_settings"},
    {"surgery.split_groups"},
    {"surgery.late_schedulers"},
    {"methods", "surgery.distributed", "surgery.norm_layers", "surgery.parking", "work"},
    {"surgery.freezing", "evaluation"},
    {"change", "comparison"},
    {"grown", "surgery.meeting"},
    {"replaying", "waiting"},
    {"growing"},
    {"factors", "companions", "surgery.checkpoints", "surgery.averaging"},
    {"base_lrs", "table", "tables", "checks", "by_hand", "idle"},
    {"driver"},
    {"driven"},
    {"callbacks.base"},
    {"callbacks.warmup", "callbacks.sedimentary", "callbacks.responder", "callbacks.freeze", "callbacks.lars"}
    | {"callbacks.age", "callbacks.depth", "callbacks.role", "callbacks.density"}
    | {"callbacks.components", "callbacks.triggers", "callbacks.plateau", "callbacks.patience"}
    | {"growable"},
    {"looking.rehearsal", "presets"},
    {"looking.report", "looking.recorder"},
    {"looking.rows"},
    {"callbacks.monitor", "looking.previews"},
    {"looking.pictures"},
    {""},
    {"pytorch_lightning"},
]


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("structurenet_pl."):
            yield node.module.removeprefix("structurenet_pl.")


@pytest.mark.parametrize("file", [file for file in FILES if name_of(file) not in FOLDERS], ids=name_of)
def test_imports_go_one_way(file):
    level = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    assert {level[module] for module in imported(file)} <= set(range(level[name_of(file)] + 1))


def test_one_assignment_of_an_lr():
    """By a subscript, in place, by an update, or by our own function for it, whose second argument is the key."""
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                written = [target for target in targets if isinstance(target, ast.Subscript)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                in_place = node.func.attr.endswith("_") and isinstance(node.func.value, ast.Subscript)
                written = [node.func.value] if in_place else []
                if node.func.attr in ("update", "setdefault") and '"lr"' in ast.unparse(node).replace("'", '"'):
                    found.append(name_of(file))
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "put":
                found += [name_of(file)] * (getattr(node.args[1], "value", None) == "lr")
                continue
            else:
                continue
            found += [name_of(file) for target in written if getattr(target.slice, "value", None) == "lr"]
    # the base lr that somebody wrote to all pieces; effective lrs, as floats and as tensors, and base lrs when the
    # groups are given back; a trial writes to copies of its own
    assert found == ["base_lrs", "table", "table", "table", "trial"]


def test_events_need_the_standard_library_only():
    for name in ("events.py", "moment.py"):
        tree = ast.parse((ROOT / name).read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "structurenet_pl"}


def test_no_file_is_long():
    assert {name_of(file): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 300} == {}


def test_public_names_are_sorted_and_documented():
    assert structurenet_pl.__all__ == sorted(structurenet_pl.__all__)
    for name in structurenet_pl.__all__:
        assert getattr(structurenet_pl, name).__doc__, name


def test_no_module_has_the_name_of_a_public_function():
    assert {name_of(file).rpartition(".")[-1] for file in FILES} & set(structurenet_pl.__all__) == set()
