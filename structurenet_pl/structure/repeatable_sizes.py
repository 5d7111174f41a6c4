"""Finds growth methods that decide by data or chance, and do not say so to the growth log."""

import pickle
import random
from types import TracebackType
from typing import Any

import numpy
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # private, but torch has no other way to see operations

from structurenet_pl.lightning import rank_zero_warn

# torch marks its operations whose result is a Python value, or a tensor of a shape, that depends on values of tensors
BY_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class DecisionWatch(TorchDispatchMode):
    """Watches a growth method: whether a size may depend on values of tensors, or on random numbers of Python.

    Random numbers of torch are watched only where they become Python values: initialisations draw them, too.
    """

    supports_higher_order_operators = True  # torch refuses to run these under a dispatch mode that does not say so

    def __init__(self) -> None:
        super().__init__()
        self.by_data = self.by_chance = False

    def __enter__(self) -> "DecisionWatch":
        self._states = _states()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.by_chance = _states() != self._states

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tags = getattr(func, "tags", ())  # operators of higher order have none
        self.by_data |= not BY_DATA.isdisjoint(tags) and not _selects_by_numbers(func, args)
        return func(*args, **(kwargs or {}))


def _selects_by_numbers(func: Any, args: Any) -> bool:
    """Whether an operation selects entries by their positions; the size of the result is that of the positions."""
    return func is torch.ops.aten.index.Tensor and not any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


def warn_of_decision(method: str, result: object, watch: DecisionWatch) -> None:
    """Warn if a growth method may have decided a size by data or chance, and has returned no arguments.

    Args:
        method: Name of the growth method.
        result: What it has returned.
        watch: What was seen of it.
    """
    if isinstance(result, dict) or not (watch.by_data or watch.by_chance):
        return
    seen = "read values of tensors" if watch.by_data else "drawn random numbers of Python or NumPy"
    rank_zero_warn(
        f"growth method {method!r} has {seen}. If a size depends on them, take it as an argument and return it, as in "
        "return {'width': width}: the growth log stores it, and a checkpoint can be loaded. If none does, return {}."
    )


def _states() -> tuple[Any, bytes]:
    """The states of the random number generators of Python and NumPy."""
    return random.getstate(), pickle.dumps(numpy.random.get_state(legacy=False))
