"""Growth logs as tensors of a state dict."""

import torch
from torch import Tensor

from structurenet_pl.structure.events import GrowthEvent, dump_log, load_log

LOG_KEY = "growth_log"


def log_from_tensor(saved: Tensor) -> tuple[GrowthEvent, ...]:
    """The growth log in a state dict. Rounded, because user code may have cast or averaged the state dict."""
    return load_log(bytes(saved.double().round().to(torch.uint8).tolist()).decode())


def log_as_tensor(log: tuple[GrowthEvent, ...]) -> Tensor:
    """A growth log for a state dict. A tensor, because many tools expect only tensors in a state dict."""
    return torch.tensor(list(dump_log(log).encode()), dtype=torch.uint8)
