"""Norms of all components in one pass, with one synchronisation with the device."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from structurenet_pl.learning_rates.moment import Norms
from structurenet_pl.structure.events import Component

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


class PartNorms(Metric):
    """Euclidean norms over the tensors of each part of the network, of several kinds: weights, gradients, updates.

    Where DDP averages gradients and keeps weights equal, all processes measure the same. Where each of them steps on
    gradients of its own they do not, and the root mean square over the processes speaks for all.

    Args:
        kinds: Number of kinds.
        parts: Number of parts.
    """

    full_state_update = False
    squares: Tensor

    def __init__(self, kinds: int, parts: int) -> None:
        super().__init__()
        self.add_state("squares", torch.zeros(kinds, parts, dtype=torch.float64), dist_reduce_fx="mean")

    @torch.no_grad()
    def update(self, kind: int, tensors: Sequence[Tensor], parts: Sequence[int]) -> None:
        """Take in tensors of one kind, each with the number of its part."""
        if tensors:
            norms = torch.stack([norm.to(self.squares) for norm in torch._foreach_norm(list(map(_dense, tensors)))])
            self.squares[kind].index_add_(0, torch.tensor(parts, device=norms.device), norms.square())

    def compute(self) -> Tensor:
        """The norms by kind and part."""
        return self.squares.sqrt()


class StepNorms:
    """Norms of gradients and updates of one step: made before the update, asked once after it.

    Args:
        parts: The tensors of each part of the network.
    """

    def __init__(self, parts: Mapping[str, Sequence[Tensor]]) -> None:
        self._names = list(parts)
        self._weights = [tensor.detach() for tensors in parts.values() for tensor in tensors]
        self._before = [weight.clone() for weight in self._weights]
        self._parts = [number for number, tensors in enumerate(parts.values()) for _ in tensors]
        tensors = [tensor for tensors in parts.values() for tensor in tensors]
        grads = [(tensor.grad, part) for tensor, part in zip(tensors, self._parts, strict=True)]
        known = [(grad, part) for grad, part in grads if grad is not None]
        self._norms = PartNorms(3, len(parts)).to(self._weights[0].device)
        self._norms.update(0, self._before, self._parts)
        self._norms.update(1, [grad for grad, _ in known], [part for _, part in known])

    def scalars(self) -> dict[str, float]:
        """By tag; the ratio is left out where all weights were 0."""
        self._norms.update(2, torch._foreach_sub(self._weights, self._before), self._parts)
        weights, grads, updates = self._norms.compute().tolist()
        ratios = zip(self._names, updates, weights, strict=True)
        return {f"grad_norm/{name}": grad for name, grad in zip(self._names, grads, strict=True)} | {
            f"update_ratio/{name}": update / weight for name, update, weight in ratios if weight
        }


def coupled_weight_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The weight decay that an optimizer adds to the gradient of a group; 0 where it acts apart from it (AdamW)."""
    named = {base.__name__ for base in type(optimizer).__mro__}
    flagged = group.get("decoupled_weight_decay", False) or group.get("weight_decouple", False)
    return 0.0 if flagged or named & DECOUPLED else float(group.get("weight_decay", 0.0))


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
