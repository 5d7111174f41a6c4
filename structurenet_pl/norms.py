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
        self._rows: dict[str, list[tuple[int, Norms]]] | None = None

    def __call__(self, component: Component, skip_1d: bool) -> Norms:
        """The norms of a component, with or without its tensors of one dimension."""
        if self._rows is None:
            self._rows = self._measure()
        rows = [norms for ndim, norms in self._rows.get(component.name, ()) if ndim > 1 or not skip_1d]
        return Norms(*(math.hypot(*column) for column in zip(*rows, strict=True))) if rows else Norms(0.0, 0.0, 0.0)

    @torch.no_grad()
    def _measure(self) -> dict[str, list[tuple[int, Norms]]]:
        """Number of dimensions and norms of each tensor, by component."""
        found = [
            (weight, coupled_weight_decay(self._optimizer, group))
            for group in self._optimizer.param_groups
            for weight in group["params"]
            if weight.grad is not None and weight in self._owner
        ]
        if not found:
            return {}
        weights = torch._foreach_norm([weight.detach() for weight, _ in found])
        grads = torch._foreach_norm([_dense(weight.grad) for weight, _ in found])
        device = weights[0].device
        numbers = torch.stack([norm.to(device, torch.float64) for norm in (*weights, *grads)]).tolist()
        rows: dict[str, list[tuple[int, Norms]]] = {}
        for (weight, decay), weight_norm, grad_norm in zip(
            found, numbers[: len(found)], numbers[len(found) :], strict=True
        ):
            norms = Norms(weight_norm, grad_norm, decay * weight_norm)
            rows.setdefault(self._owner[weight], []).append((weight.ndim, norms))
        return rows


def coupled_weight_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The weight decay that an optimizer adds to the gradient of a group; 0 where it acts apart from it (AdamW)."""
    named = {base.__name__ for base in type(optimizer).__mro__}
    flagged = group.get("decoupled_weight_decay", False) or group.get("weight_decouple", False)
    return 0.0 if flagged or named & DECOUPLED else float(group.get("weight_decay", 0.0))


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
