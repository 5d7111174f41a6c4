"""Norms of weights, gradients and updates by component, measured in one pass that waits for the device once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from structurenet_pl.learning_rates.moment import Norms
from structurenet_pl.optim.weight_decay import coupled_weight_decay
from structurenet_pl.structure.events import Component
from structurenet_pl.structure.sharded_tensors import local_entries, norms_of_whole, shard_count

Key = TypeVar("Key", bound=Hashable)  # of a part of the network
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
        tensors = [*(weight for weight, _ in measured), *(_dense(weight.grad) for weight, _ in measured)]
        numbers = _read(torch._foreach_norm(list(map(local_entries, tensors))), tensors)
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
    mean square over the ranks. Of sharded tensors the result is the norm of the whole tensor.

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
    def update(self, kind: int, tensors: Sequence[Tensor], parts: Sequence[int], shards: Sequence[int]) -> None:
        """Add the norms of some tensors.

        Args:
            kind: The number of their kind.
            tensors: The tensors, or the entries of them that this process holds.
            parts: The number of the part that each tensor belongs to.
            shards: How many shards each tensor is divided into.
        """
        if tensors:
            norms = torch.stack([norm.to(self.squares) for norm in torch._foreach_norm(list(map(_dense, tensors)))])
            # the mean over the processes is the sum over the shards, if each is counted as often as there are shards
            squares = norms.square() * norms.new_tensor(shards)
            self.squares[kind].index_add_(0, torch.tensor(parts, device=norms.device), squares)

    def compute(self) -> Tensor:
        """The norms by kind and part."""
        return self.squares.sqrt()


class Entries(NamedTuple):
    """A tensor, or some of its entries.

    Args:
        tensor: The tensor.
        mask: Which entries on this process are meant, None for all.
        masked: The number of these entries on all processes, where there is a mask.
    """

    tensor: Tensor
    mask: Tensor | None = None
    masked: int = 0

    def of(self, values: Tensor) -> Tensor:
        """These entries of the tensor, its gradient or its update, as far as this process holds them."""
        return _dense(local_entries(values)) if self.mask is None else local_entries(values).to_dense()[self.mask]

    @property
    def size(self) -> int:
        """The number of entries on all processes."""
        return self.tensor.numel() if self.mask is None else self.masked

    def copy(self) -> Tensor:
        """A copy of these entries of the tensor."""
        values = self.of(self.tensor.detach())
        return values.clone() if self.mask is None else values  # a mask makes a copy


class PartNorm(NamedTuple):
    """The norms of one part of the network in one step.

    Args:
        size: Number of weights.
        weight: Norm of the weights before the update.
        grad: Norm of the gradient.
        update: Norm of the update.
    """

    size: int
    weight: float
    grad: float
    update: float


class StepNorms(Generic[Key]):
    """Norms of the gradients and the update of one step: to be made before the update, and read once after it.

    Args:
        parts: The tensors, or entries of tensors, of each part of the network. Parts may overlap.
    """

    def __init__(self, parts: Mapping[Key, Sequence[Entries]]) -> None:
        self._keys = list(parts)
        self._entries = [entries for several in parts.values() for entries in several]
        self._parts = [number for number, several in enumerate(parts.values()) for _ in several]
        self._shards = [shard_count(entries.tensor) for entries in self._entries]
        self._before = [entries.copy() for entries in self._entries]
        self._norms = PartNorms(kinds=3, parts=len(parts)).to(self._before[0].device)
        self._norms.update(WEIGHTS, self._before, self._parts, self._shards)
        every = zip(self._entries, self._parts, self._shards, strict=True)
        present = [row for row in every if row[0].tensor.grad is not None]
        grads = [entries.of(cast(Tensor, entries.tensor.grad)) for entries, _, _ in present]
        self._norms.update(GRADS, grads, [part for _, part, _ in present], [shards for _, _, shards in present])

    def read(self) -> dict[Key, PartNorm]:
        """The norms by part."""
        after = [entries.of(entries.tensor.detach()) for entries in self._entries]
        self._norms.update(UPDATES, torch._foreach_sub(after, self._before), self._parts, self._shards)
        sizes = [0] * len(self._keys)
        for part, entries in zip(self._parts, self._entries, strict=True):
            sizes[part] += entries.size
        norms = zip(self._keys, sizes, self._norms.compute().T.tolist(), strict=True)
        return {key: PartNorm(size, *kinds) for key, size, kinds in norms}


def _read(numbers: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[float]:
    """The norms of tensors as float64, with one wait for the device, from the norms of what this process holds."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}  # those of a split module lie on several devices
    for place, number in enumerate(numbers):
        places.setdefault((number.device, number.dtype), []).append(place)
    stacks = [torch.stack([numbers[place] for place in alike]) for alike in places.values()]
    values = torch.cat([stack.to(stacks[0].device, torch.float64) for stack in stacks])
    order = list(chain.from_iterable(places.values()))
    values = norms_of_whole(values, [tensors[place] for place in order])
    by_place = dict(zip(order, values.tolist(), strict=True))
    return [by_place[place] for place in range(len(numbers))]


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
