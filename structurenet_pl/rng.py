"""Random number generators of this process as plain values, for exact resume."""

import random
from typing import Any

import numpy
import torch


def collect_rng() -> dict[str, Any]:
    """The state of all global generators, as primitives and tensors that ``torch.load(weights_only=True)`` takes."""
    kind, keys, *rest = numpy.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [kind, [int(key) for key in keys], *rest],
    }


def collect_rng_of_all_processes() -> list[dict[str, Any]]:
    """What :func:`collect_rng` collects, of every process by rank."""
    state = collect_rng()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def restore_rng(state: dict[str, Any]) -> None:
    """Put back what :func:`collect_rng` collected."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    numpy.random.set_state(tuple(state["numpy"]))
