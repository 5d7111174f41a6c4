"""README as a newcomer uses it: its code runs from top to bottom, its links lead to files, and it is short."""

import ast
import re
from pathlib import Path

import matplotlib as mpl
import pytest

from helpers import Plain, fit, loader

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
YOURS = {"module": Plain(), "MyModule": Plain, "train_loader": loader()}  # what a reader has: all else is in the blocks


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that a reader has after running all blocks, one after the other, in one session."""
    mpl.use("agg")
    names = dict(YOURS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("logs"))
        for number, block in enumerate(BLOCKS, start=1):
            try:
                exec(compile(block[1], f"README, block {number}", "exec"), names)
            except NameError as error:
                pytest.fail(f"block {number} needs what no block above it defines, and no reader has: {error}")
    return names


@pytest.mark.parametrize("block", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_what_a_reader_must_have_is_named_before_the_block_that_needs_it(block):
    needed = YOURS.keys() & {node.id for node in ast.walk(ast.parse(block[1])) if isinstance(node, ast.Name)}
    assert {name for name in needed if f"`{name}`" not in README[: block.start()]} == set()


def test_a_growing_module_grows_in_a_fit(names):
    assert names["net"].growth_log[0].born == ("patches.0",)
    assert len(names["net"].growth_log) == 2


def test_a_preview_has_the_growths_of_the_whole_run(names):
    assert names["plan"].events == ((12, "+ patches.0"), (24, "+ patches.1"))


def test_a_factor_of_ones_own(names):
    fit(Plain(), [names["CalmAfterGrowth"]()], epochs=1)


def test_growth_in_width_and_depth(names):
    net = names["Net"]()
    net.wider(12)
    net.deeper()
    assert [event.outcome for event in net.growth_log] == [{"widened": ("body.0", "body.2")}, {"born": ("body.4",)}]


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https:)([^)]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_it_is_short():
    assert len(README.split()) <= 1350
