"""Train 2N == train N, save, resume in a fresh process, N more: every kind of growth, from anywhere in an epoch.

In some rows the first half of the network is frozen, from before the growth until after it.
"""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import resume_matrix_worker
from helpers import assert_same
from resume_matrix_worker import EPOCHS, ROWS, STOP, start


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The second halves, trained by a fresh process from the checkpoints."""
    folder = tmp_path_factory.mktemp("matrix")
    torch.set_num_threads(1)
    for name, row in ROWS.items():
        seed_everything(1, verbose=False)
        within = row[3] == "within an epoch"
        when = {"every_n_train_steps": STOP[row[3]]} if within else {"save_on_train_epoch_end": True}
        save = ModelCheckpoint(folder / name, filename="half", **when)
        steps = {"max_steps": STOP[row[3]]} if within else {}
        start(row, [save], epochs=EPOCHS if within else STOP[row[3]], enable_checkpointing=True, **steps)
    subprocess.run([sys.executable, resume_matrix_worker.__file__, str(folder)], check=True, timeout=600)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ROWS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_resumed_equals_uninterrupted(resumed, name):
    seed_everything(1, verbose=False)
    whole, second = start(ROWS[name]), resumed[name]
    assert 0 < len(second["rows"]) < len(whole["rows"])
    assert second["rows"] == whole["rows"][-len(second["rows"]) :]
    assert second["lrs"] == whole["lrs"]
    assert second["trained"] == whole["trained"]
    assert_same(second["optimizer"], whole["optimizer"])
    assert_same(second["weights"], whole["weights"])
    assert "growth_log" in whole["weights"]
