"""Norms of weights, gradients and updates by component, measured in one pass that waits for the device once."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from structurenet_pl.learning_rates.moment import Norms
from structurenet_pl.optim.weight_decay import coupled_weight_decay
from structurenet_pl.structure.events import Component

WEIGHTS, GRADS, UPDATES = range(3)  # the kinds of norms in a step


class GradientNorms:
    """Norms of weights and gradients in one optimizer, all measured at the first call.

    Args:
        optimizer: The optimizer. Its groups hold the weight decay.
        owner: The component name of each parameter.
    """

    def __init__(self, optimizer: Optimizer, owner: Mapping[nn.Parameter, str]) -> None:
        self._optimizer = optimizer
        self._owner = owner
        self._rows: dict[str, list[tuple[int, Norms]]] | None = None

    def __call__(self, component: Component, skip_1d: bool) -> Norms:
        """The norms of a component.

        Args:
            component: The component.
            skip_1d: Whether to leave out its tensors of one dimension.
        """
        if self._rows is None:
            self._rows = self._measure()
        rows = [norms for ndim, norms in self._rows.get(component.name, ()) if ndim > 1 or not skip_1d]
        return Norms(*(math.hypot(*column) for column in zip(*rows, strict=True))) if rows else Norms(0.0, 0.0, 0.0)

    @torch.no_grad()
    def _measure(self) -> dict[str, list[tuple[int, Norms]]]:
        """The number of dimensions and the norms of each tensor, by component."""
        measured = [
            (weight, coupled_weight_decay(self._optimizer, group))
            for group in self._optimizer.param_groups
            for weight in group["params"]
            if weight.grad is not None and weight in self._owner
        ]
        if not measured:
            return {}
        # private in torch, as is every torch._foreach function here: one kernel for all tensors instead of one for each
        weights = torch._foreach_norm([weight for weight, _ in measured])
        grads = torch._foreach_norm([_dense(weight.grad) for weight, _ in measured])
        numbers = _read([*weights, *grads])
        rows: dict[str, list[tuple[int, Norms]]] = {}
        for (weight, decay), weight_norm, grad_norm in zip(
            measured, numbers[: len(measured)], numbers[len(measured) :], strict=True
        ):
            norms = Norms(weight_norm, grad_norm, decay * weight_norm)
            rows.setdefault(self._owner[weight], []).append((weight.ndim, norms))
        return rows


class PartNorms(Metric):
    """Euclidean norms over the tensors of each part of the network, of several kinds such as weights and gradients.

    Under DDP all ranks measure the same norms. Where each rank steps on gradients of its own, the result is the root
    mean square over the ranks.

    Args:
        kinds: The number of kinds.
        parts: The number of parts.
    """

    full_state_update = False  # torchmetrics wants to know: update() does not read what was added before
    squares: Tensor

    def __init__(self, kinds: int, parts: int) -> None:
        super().__init__()
        self.add_state("squares", torch.zeros(kinds, parts, dtype=torch.float64), dist_reduce_fx="mean")

    @torch.no_grad()
    def update(self, kind: int, tensors: Sequence[Tensor], parts: Sequence[int]) -> None:
        """Add the norms of some tensors.

        Args:
            kind: The number of their kind.
            tensors: The tensors.
            parts: The number of the part that each tensor belongs to.
        """
        if tensors:
            norms = torch.stack([norm.to(self.squares) for norm in torch._foreach_norm(list(map(_dense, tensors)))])
            self.squares[kind].index_add_(0, torch.tensor(parts, device=norms.device), norms.square())

    def compute(self) -> Tensor:
        """The norms by kind and part."""
        return self.squares.sqrt()


class StepNorms:
    """Norms of the gradients and the update of one step: to be made before the update, and read once after it.

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
        present = [(grad, part) for grad, part in grads if grad is not None]
        self._norms = PartNorms(kinds=3, parts=len(parts)).to(self._weights[0].device)
        self._norms.update(WEIGHTS, self._before, self._parts)
        self._norms.update(GRADS, [grad for grad, _ in present], [part for _, part in present])

    def scalars(self) -> dict[str, float]:
        """The norms of gradients, and of updates relative to the weights, by tag of the log.

        A part whose weights were all 0 has no ratio.
        """
        self._norms.update(UPDATES, torch._foreach_sub(self._weights, self._before), self._parts)
        weights, grads, updates = self._norms.compute().tolist()
        ratios = zip(self._names, updates, weights, strict=True)
        return {f"grad_norm/{name}": grad for name, grad in zip(self._names, grads, strict=True)} | {
            f"update_ratio/{name}": update / weight for name, update, weight in ratios if weight
        }


def _read(numbers: Sequence[Tensor]) -> list[float]:
    """The values of tensors with one entry each, as float64, with one wait for the device."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}  # those of a split module lie on several devices
    for place, number in enumerate(numbers):
        places.setdefault((number.device, number.dtype), []).append(place)
    stacks = [torch.stack([numbers[place] for place in alike]) for alike in places.values()]
    values = torch.cat([stack.to(stacks[0].device, torch.float64) for stack in stacks]).tolist()
    by_place = dict(zip(chain.from_iterable(places.values()), values, strict=True))
    return [by_place[place] for place in range(len(numbers))]


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
