"""How much of the work of a training step each component is."""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from structurenet_pl.structure.events import lineage
from structurenet_pl.structure.partition import Structure


class Flops:
    """Multiply-adds of components in the forward pass, counted in one batch.

    A weight is used once at each position of the output of the module around it (of the input of a transposed
    convolution). Lookups, attention scores and tensors of one dimension count as nothing.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._positions: Counter[nn.Module] = Counter()
        self._counted: dict[str, int] = {}

    def watch(self, module: nn.Module) -> None:
        """Count in the batch that comes."""
        self.stop()
        self._positions.clear()
        self._handles = [
            part.register_forward_hook(self._note)
            for part in module.modules()
            if next(part.parameters(), None) is not None
        ]

    def count(self, module: nn.Module, structure: Structure) -> bool:
        """The batch is over; tell whether it was one to be counted."""
        if not self._handles:
            return False
        self.stop()
        places = dict(module.named_modules())
        counted: Counter[str] = Counter()
        for name, tensors in structure.parameters.items():
            for path, tensor in tensors.items():
                around = [places[outer] for outer in reversed(["", *lineage(path)[:-1]]) if outer in places]
                used = next((self._positions[part] for part in around if part in self._positions), 0)
                lookup = isinstance(around[0], nn.Embedding | nn.EmbeddingBag)
                counted[name] += 0 if tensor.ndim < 2 or lookup else used * tensor.numel()
        self._counted = dict(counted)
        return True

    def stop(self) -> None:
        """Count no longer."""
        while self._handles:
            self._handles.pop().remove()

    def saved(self, structure: Structure, trained: Iterable[str]) -> float | None:
        """Share of a training step that is saved; None before anything has been counted.

        Forward pass, gradient of the weights and gradient of the input cost the same. What is not trained needs no
        gradient of its weights, what stands before all that is trained no gradient of its input either.

        Args:
            structure: The components.
            trained: Names of those that are trained.
        """
        depths = {name: component.depth for name, component in structure.components.items()}
        counted = {name: self._counted.get(name, 0) for name in depths}
        forward = sum(counted.values())

        def cost(trained: Collection[str]) -> int:
            first = min((depths[name] for name in trained), default=math.inf)
            weights = sum(counted[name] for name in trained)
            return forward + weights + sum(count for name, count in counted.items() if depths[name] > first)

        return 1 - cost(set(trained)) / cost(depths) if forward else None

    def _note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        source = args if isinstance(module, _ConvTransposeNd) else output
        tensor = next((one for one in _flat(source) if isinstance(one, Tensor) and one.ndim), None)
        if tensor is not None:
            channels = module.weight.shape[0] if isinstance(module, _ConvNd) else tensor.shape[-1]
            self._positions[module] += tensor.numel() // max(channels, 1)


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple | list) else [value]
