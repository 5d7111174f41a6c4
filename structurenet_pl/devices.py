"""Where tensors are, and what they are made of."""

from collections.abc import Iterable

import torch
from torch import Tensor


def whereabouts(tensors: Iterable[Tensor]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the first floating point tensor, and the dtype of all if they have one in common."""
    firsts: dict[torch.dtype, Tensor] = {}
    for tensor in tensors:
        firsts.setdefault(tensor.dtype, tensor)
    floating = [tensor for dtype, tensor in firsts.items() if dtype.is_floating_point]
    return (floating[0].device, floating[0].dtype if len(floating) == 1 else None) if floating else (None, None)


def bring(tensors: Iterable[Tensor], device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Bring tensors to a device, and floating point ones to a dtype; None leaves them."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)
