"""The site is built from the docstrings without a warning, and all of its references lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import structurenet_pl

BUILD = Path(__file__).parents[2] / ".github" / "site" / "build.py"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site(tmp_path):
    done = subprocess.run([sys.executable, BUILD, tmp_path], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "structurenet_pl.html").read_text()
    for name in structurenet_pl.__all__:
        assert f'<section id="{name}">' in page
    assert r"\begin{cases} \text{early}_p &amp; i &lt; \text{split}_p \\ \text{late}_p" in page  # no backslash is lost
    assert 'id="GrowthMixin.components"' in page  # of a base class that has no page
    assert 'id="Warmup.on_fit_start"' not in page
    (source,) = re.findall(r'id="AgeDecay">.*?class="source-link" href="([^"]+)"', page, re.DOTALL)
    file, line = re.fullmatch(r"https://.+/blob/\w+/(.+)#L(\d+)", source).groups()
    assert (BUILD.parents[2] / file).read_text().splitlines()[int(line) - 1].startswith("class AgeDecay")
    assert (
        '<a href="../structurenet_pl.html#Warmup">Warmup</a>'
        in (tmp_path / "structurenet_pl/structure.html").read_text()
    )
    assert "half-life" in (tmp_path / "search.js").read_text()


def test_references_that_lead_nowhere_are_found(build, tmp_path):
    (tmp_path / "one.html").write_text(
        '<p id="here"><a href="#here"></a><a href="two.html#there"></a><a href="https://example.org/#x"></a>'
        "<code>structurenet_pl.structure</code><code>structurenet_pl.Warmup.factor</code></p>"
    )
    (tmp_path / "two.html").write_text('<p id="there"></p>')
    assert build.dead_references(tmp_path) == []
    (tmp_path / "two.html").write_text(
        '<a href="one.html#nowhere"></a><a href="three.html"></a><code>structurenet_pl.strata</code>'
    )
    assert build.dead_references(tmp_path) == [
        "one.html: link to two.html#there",
        "two.html: link to one.html#nowhere",
        "two.html: link to three.html",
        "two.html: structurenet_pl.strata does not exist",
    ]
