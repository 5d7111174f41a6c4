"""Norms of all components in one pass, with one synchronisation with the device."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.events import Component, Norms

DECOUPLED = {"AdamW", "Adafactor", "Muon"}  # by name: not every torch has all of them, and only some set a flag


class GradientNorms:
    """Norms of weights and gradients of one optimizer, measured all at once when first asked for.

    Args:
        optimizer: Its groups say how strong the coupled weight decay is.
        owner: Component name of each parameter.
    """

    def __init__(self, optimizer: Optimizer, owner: Mapping[nn.Parameter, str]) -> None:
        self._optimizer = optimizer
        self._owner = owner
        self._rows: list[tuple[str, int, float, float, float]] | None = None

    def __call__(self, component: Component, skip_1d: bool) -> Norms:
        """The norms of a component, with or without its tensors of one dimension."""
        if self._rows is None:
            self._rows = self._measure()
        rows = [row[2:] for row in self._rows if row[0] == component.name and (row[1] > 1 or not skip_1d)]
        return Norms(*(math.hypot(*column) for column in zip(*rows, strict=True))) if rows else Norms(0.0, 0.0, 0.0)

    @torch.no_grad()
    def _measure(self) -> list[tuple[str, int, float, float, float]]:
        tensors = [
            (tensor, tensor.grad, coupled_weight_decay(self._optimizer, group))
            for group in self._optimizer.param_groups
            for tensor in group["params"]
            if tensor.grad is not None and tensor in self._owner
        ]
        if not tensors:
            return []
        weights = torch._foreach_norm([weight.detach() for weight, _, _ in tensors])
        grads = torch._foreach_norm([_dense(grad) for _, grad, _ in tensors])
        device = weights[0].device
        both = torch.stack([norm.to(device, torch.float64) for norm in (*weights, *grads)]).tolist()
        return [
            (self._owner[weight], weight.ndim, weight_norm, grad_norm, decay * weight_norm)
            for (weight, _, decay), weight_norm, grad_norm in zip(
                tensors, both[: len(tensors)], both[len(tensors) :], strict=True
            )
        ]


def coupled_weight_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The weight decay that an optimizer adds to the gradient of a group; 0 where it acts apart from it (AdamW)."""
    named = {base.__name__ for base in type(optimizer).__mro__}
    flagged = group.get("decoupled_weight_decay", False) or group.get("weight_decouple", False)
    return 0.0 if flagged or named & DECOUPLED else float(group.get("weight_decay", 0.0))


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
