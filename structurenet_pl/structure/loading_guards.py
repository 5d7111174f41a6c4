"""Guards around the loading of a state dict: against huge tensors, and against modules that are half loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from math import prod
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode  # private, but the only way to see tensors before they exist

from structurenet_pl.structure.founding import founding_of, set_founding
from structurenet_pl.structure.module_structure import HasGrowthLog, clear_structure_cache
from structurenet_pl.structure.replay_log import ReplayError
from structurenet_pl.structure.rollback import Snapshot

MAX_TEMPORARY_ENTRIES = 1_000_000  # by which a temporary tensor of a growth method may exceed all that are saved


class TensorSizeLimit(TorchDispatchMode):
    """Refuses to create tensors that are larger than any that checkpoint or module hold, before memory is allocated.

    A damaged or malicious growth log could otherwise ask for any amount of memory.

    Args:
        entries: The number of entries in the larger of checkpoint and module.
    """

    supports_higher_order_operators = True  # torch refuses to run these under a dispatch mode that does not say so

    def __init__(self, entries: int) -> None:
        super().__init__()
        self._entries = entries

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = _place_of_size(function)
        size = () if place is None else args[place] if place < len(args) else (kwargs or {}).get("size", ())
        if isinstance(size, list | tuple) and prod(size) > self._entries + MAX_TEMPORARY_ENTRIES:
            raise ReplayError(
                f"the growth log of the checkpoint creates a tensor of shape {tuple(size)}, but checkpoint and module "
                f"have at most {self._entries} entries. Load the checkpoint with the code that wrote it."
            )
        return function(*args, **(kwargs or {}))


@cache
def _place_of_size(function: Any) -> int | None:
    """The position of the size among the arguments of a factory, such as empty and zeros, None for other functions."""
    # private, but the only way to the names of positional arguments; operators of higher order have no schema
    schema = getattr(function, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    # view and expand have a size, too, and "self", and allocate nothing
    return names.index("size") if "size" in names and "self" not in names else None


@contextmanager
def restore_module_on_error(module: HasGrowthLog) -> Iterator[None]:
    """Restore all references of a module, and the values of its tensors, if the body of the ``with`` raises."""
    snapshot, founding = Snapshot(module), founding_of(module)
    tensors = chain(module.parameters(), module.buffers())
    values = [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)]
    try:
        yield
    except BaseException:
        snapshot.restore()
        set_founding(module, founding)
        clear_structure_cache(module)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):  # an expanded buffer, for one, refuses to be written
                    tensor.copy_(value)
        raise
