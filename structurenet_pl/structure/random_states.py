"""Save and restore the states of this process's random number generators, for exact resume."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch


def collect_rng() -> dict[str, Any]:
    """The states of all global generators, as primitives and tensors that ``torch.load(weights_only=True)`` accepts."""
    kind, keys, *rest = numpy.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [kind, [int(key) for key in keys], *rest],
    }


@contextmanager
def kept_rng() -> Iterator[None]:
    """Restore all generators after the body of the ``with``; unlike Lightning's ``isolate_rng`` also after an error."""
    state = collect_rng()
    try:
        yield
    finally:
        restore_rng(state)


def restore_rng(state: dict[str, Any]) -> None:
    """Restore states that ``collect_rng`` gave."""
    torch.set_rng_state(state["torch"])
    # the states may be from another machine
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    numpy.random.set_state(tuple(state["numpy"]))
