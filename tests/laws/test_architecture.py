"""Laws about the source: where learning rates are written, what is imported, how long files are, what is documented."""

import ast
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import structurenet_pl
from structurenet_pl import Clock, Component, GrowthEvent, Moment

ROOT = Path(structurenet_pl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parents[1]
READS_WITH_DEFAULT = {"get", "pop", "getattr"}  # their second argument is no value to write


def name_of(file):
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def is_lr(node):
    return isinstance(node, ast.Constant) and node.value == "lr"


def is_lr_of_a_group(node):
    return isinstance(node, ast.Subscript) and is_lr(node.slice)


def holds_an_lr(node):
    """Whether a mapping, a list of pairs or a call of dict, somewhere in an expression, has the key ``lr``."""
    return any(
        (isinstance(part, ast.Dict) and any(map(is_lr, part.keys)))
        or (isinstance(part, ast.Tuple) and len(part.elts) == 2 and is_lr(part.elts[0]))
        or (isinstance(part, ast.keyword) and part.arg == "lr")
        for part in ast.walk(node)
    )


def call_writes_an_lr(call):
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
    if function.endswith("_") and not function.startswith("_"):  # torch's methods that work in place
        return is_lr_of_a_group(receiver)
    if function in ("update", "__ior__"):
        return any(map(holds_an_lr, [*call.args, *call.keywords]))
    # setdefault("lr", x), put(group, "lr", x), setitem(group, "lr", x), __setitem__("lr", x), setattr(group, "lr", x)
    return function not in READS_WITH_DEFAULT and any(map(is_lr, call.args[:-1]))


def lr_writes(source):
    """The lines of a source that write into the ``lr`` of a param group."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if (
            (is_lr_of_a_group(node) and isinstance(node.ctx, ast.Store))
            or (isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr) and holds_an_lr(node.value))
            or (isinstance(node, ast.keyword) and node.arg == "out" and is_lr_of_a_group(node.value))
            or (isinstance(node, ast.Call) and call_writes_an_lr(node))
        ):
            lines.append(node.lineno)
    return lines


def test_few_modules_write_lrs():
    """One module writes base lrs, and one writes effective lrs; one more tries optimizers on small copies."""
    writers = [name_of(file) for file in FILES if lr_writes(file.read_text())]
    folders = Counter(writer.split(".")[1] for writer in writers)
    assert folders <= Counter(learning_rates=2, optim=1), writers
    assert folders["learning_rates"], "lr_writes should find the writer of effective lrs"


@pytest.mark.parametrize(
    "source",
    [
        'group["lr"] = x',
        'group["lr"]: float = x',
        'group["lr"] *= x',
        'group["lr"], rest = x, y',
        'for group["lr"] in x: pass',
        'optimizer.param_groups[0]["lr"] = x',
        'group["lr"].fill_(x)',
        'group["lr"].copy_(x)',
        'torch.mul(x, y, out=group["lr"])',
        "group.update(lr=x)",
        'group.update({"lr": x})',
        'group.update([("lr", x)])',
        "group.update(dict(lr=x))",
        'group |= {"lr": x}',
        "group |= dict(lr=x)",
        'group.__ior__({"lr": x})',
        'group.setdefault("lr", x)',
        'group.__setitem__("lr", x)',
        'dict.__setitem__(group, "lr", x)',
        'operator.setitem(group, "lr", x)',
        'setattr(group, "lr", x)',
        'put(group, "lr", x)',
    ],
)
def test_a_write_of_an_lr_is_found(source):
    assert lr_writes(f"before = 0\n{source}\n") == [2]


@pytest.mark.parametrize(
    "source",
    [
        'x = group["lr"]',
        'x = group["lr"].clone()',
        'x = group.get("lr", 0.1)',
        'x = group.pop("lr", None)',
        'x = getattr(group, "lr", None)',
        'lrs |= {group["name"]: group["lr"]}',
        'lrs.update({group["name"]: group["lr"]})',
        'group["weight_decay"] = group["lr"]',
        "optimizer = SGD(params, lr=x)",
        'group = {**settings, "lr": x}',
    ],
)
def test_a_read_of_an_lr_is_no_write(source):
    assert lr_writes(source) == []


@pytest.mark.parametrize("kind", [Clock, Component, GrowthEvent, Moment])
def test_data_that_factors_read_need_the_standard_library_only(kind):
    tree = ast.parse(Path(inspect.getfile(kind)).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "structurenet_pl"}


def test_no_file_is_long():
    assert {name_of(file): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 250} == {}


def test_public_names_are_sorted_and_documented():
    assert structurenet_pl.__all__ == sorted(structurenet_pl.__all__)
    for name in structurenet_pl.__all__:
        assert getattr(structurenet_pl, name).__doc__, name


def test_no_module_has_the_name_of_a_public_function():
    assert {file.stem for file in FILES} & set(structurenet_pl.__all__) == set()


def test_docstrings_have_one_markup():
    """Markdown with double backticks and Google's sections; of reStructuredText the formulas only, as pdoc reads it."""
    foreign = re.compile(
        r":(class|func|meth|mod|attr|obj):`|`_\b|^ *={4,}( =+)*$|^ *\.\. (?!math::)\w+::", re.MULTILINE
    )
    assert {name_of(file): found[0] for file in FILES if (found := foreign.search(file.read_text()))} == {}


def imported_names(file):
    """The last parts of all that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            paths = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from (path.rpartition(".")[-1] for path in paths)


def test_no_test_module_is_imported():
    """Code that two test modules need lies in ``tests/support``, so that each folder of tests runs by itself."""
    test_modules = {file.stem for file in TESTS.rglob("test_*.py")}
    importers = {file.stem for file in TESTS.rglob("*.py") if test_modules & set(imported_names(file))}
    assert importers == set()
