"""One place assigns an lr, files are short, and the public names are those of the package."""

import ast
import sys
from pathlib import Path

import structurenet_pl

ROOT = Path(structurenet_pl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


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
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "write_setting":
                found += [name_of(file)] * (getattr(node.args[1], "value", None) == "lr")
                continue
            else:
                continue
            found += [name_of(file) for target in written if getattr(target.slice, "value", None) == "lr"]
    # base lr that somebody else wrote to all pieces; effective lrs, as floats and as tensors; base lrs when the groups
    # are given back; a probe writes to copies of its own
    table = "learning_rates.lr_table"
    assert found == ["learning_rates.base_lrs", table, table, table, "optim.small_copies"]


def test_events_need_the_standard_library_only():
    for name in ("structure/events.py", "learning_rates/moment.py"):
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
