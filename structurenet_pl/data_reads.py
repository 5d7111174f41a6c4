"""Sees which sizes a growth method may have taken from the values of tensors, which another run may not have."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # private; torch has no public way to watch operators
from torch.utils._pytree import tree_leaves, tree_map_only


class DataReads(TorchDispatchMode):
    """Notes the numbers that Python reads out of tensors, and the sizes of tensors whose shape depends on values.

    torch marks the operators that do so; of those whose shape *may* depend on values, such as indexing, it is tried out
    without values whether it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: set[float] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        tags = getattr(function, "tags", ())  # operators of higher order have none
        if torch.Tag.data_dependent_output in tags and not isinstance(result, bool | Tensor):
            self.numbers.add(result)
        elif torch.Tag.dynamic_output_shape in tags and not _has_shape_without_values(function, args, kwargs):
            self.numbers |= {size for tensor in tree_leaves(result) for size in tensor.shape}
        return result


def _has_shape_without_values(function: Any, args: Any, kwargs: Any) -> bool:
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    try:
        function(*args, **kwargs)
    except (NotImplementedError, RuntimeError):  # meta tensors have no values
        return False
    return True
