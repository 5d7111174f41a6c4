"""Type checkers know the signatures of growth methods and of callbacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLS = ROOT / "tests" / "support" / "typed_calls.py"
CHECKERS = {  # as a user calls them, without the settings of this project
    "mypy": ["mypy", "--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache' / 'typed_calls'}"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_accepted_and_rejected_calls(checker):
    run = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], str(CALLS)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    rejected = {int(line) for line in re.findall(rf"{CALLS.name}:(\d+):.* error", run.stdout)}
    lines = enumerate(CALLS.read_text().splitlines(), start=1)
    assert rejected == {number for number, line in lines if "# rejected" in line}, run.stdout + run.stderr
