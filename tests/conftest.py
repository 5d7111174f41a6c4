"""Every test starts from the same seed, on one thread."""

import pytest
import torch
from lightning.pytorch import seed_everything


@pytest.fixture(autouse=True)
def reproducible(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    monkeypatch.chdir(tmp_path)
