"""A run that is killed and resumed many times equals one that was never killed, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import killed_worker
from helpers import assert_same
from killed_worker import BATCHES, EPOCHS, PAUSE, train


def start(folder):
    # Lightning writes a temporary file and moves it to its place, which is atomic on one file system only
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, killed_worker.__file__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def run_and_kill(folder, word, step, delay):
    """Start the worker, and kill it in this step, or in the middle of the first checkpoint that follows."""
    with start(folder) as process:
        said = (line.split() for line in process.stdout)
        next(line for line in said if line[:1] == [word] and int(line[1]) >= step)
        if word == "step":
            time.sleep(delay)
        else:  # a busy machine may miss the middle, and that is no failure
            deadline = time.monotonic() + 1
            while not any(folder.glob("tmp*")) and time.monotonic() < deadline:
                pass
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it should not have come to an end by itself"


@pytest.mark.slow
def test_killed_equals_uninterrupted(tmp_path):
    chance = random.Random(0)
    kills = ("step", "step", "save", "step", "step")
    fifth = EPOCHS * BATCHES // len(kills)
    for number, word in enumerate(kills):
        run_and_kill(tmp_path, word, number * fifth + chance.randrange(fifth), chance.uniform(0, PAUSE))
    with start(tmp_path) as process:
        process.communicate(timeout=100)
    assert process.returncode == 0
    end = torch.load(tmp_path / "end.pt", weights_only=False)

    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole")
    for change in ("born", "widened", "removed"):
        assert sum(bool(getattr(event, change)) for event in whole["log"]) >= 2
    assert 0 < len(end["rows"]) < len(whole["rows"])
    assert end["rows"] == whole["rows"][-len(end["rows"]) :]
    for key in end.keys() - {"rows"}:
        assert_same(end[key], whole[key])
