"""The work of a training step in multiply-adds, and the share of it that frozen components save."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # torch has no public base classes of convolutions
from torch.utils.hooks import RemovableHandle

from structurenet_pl.structure.events import lineage
from structurenet_pl.structure.partition import Structure


def step_cost(multiply_adds: Mapping[str, int], depths: Mapping[str, int], trained: Collection[str]) -> int:
    """The multiply-adds of a training step.

    The forward pass, the gradient of the weights and the gradient of the input cost the same. A frozen component needs
    no gradient of its weights. A component before the first trained one needs no gradient of its input.

    Args:
        multiply_adds: Multiply-adds of each component in the forward pass.
        depths: Depth of each component in the network.
        trained: Names of the components that are trained.

    Example:
        >>> work, depths = {"stem": 100, "body": 200, "head": 30}, {"stem": 0, "body": 1, "head": 2}
        >>> step_cost(work, depths, trained={"stem", "body", "head"})
        890
        >>> step_cost(work, depths, trained={"head"})
        360
    """
    first = min((depths[name] for name in trained), default=math.inf)
    weight_gradients = sum(multiply_adds[name] for name in trained)
    input_gradients = sum(cost for name, cost in multiply_adds.items() if depths[name] > first)
    return sum(multiply_adds.values()) + weight_gradients + input_gradients


class TrainingWork:
    """Counts the multiply-adds of each component in the forward pass of one batch.

    A weight is used once at each position of the output of its module (of the input of a transposed convolution).
    Lookups, attention scores and tensors of one dimension count as no work.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._positions: Counter[nn.Module] = Counter()
        self._multiply_adds: dict[str, int] = {}  # by component, in the forward pass

    def count_next_batch(self, module: nn.Module) -> None:
        """Hook all modules with parameters until ``end_batch``. Without hooks, a batch costs nothing more."""
        self.stop()
        self._positions.clear()
        self._handles = [
            part.register_forward_hook(self._add_positions)
            for part in module.modules()
            if next(part.parameters(), None) is not None
        ]

    def end_batch(self, module: nn.Module, structure: Structure) -> bool:
        """Compute the multiply-adds at the end of a batch; return whether the batch was counted."""
        if not self._handles:
            return False
        self.stop()
        modules = dict(module.named_modules())
        multiply_adds: Counter[str] = Counter()
        for name, tensors in structure.parameters.items():
            for path, tensor in tensors.items():
                outer_paths = reversed(["", *lineage(path)[:-1]])  # innermost first
                around = [modules[outer] for outer in outer_paths if outer in modules]
                # the innermost module that ran: MultiheadAttention, for example, never calls its out_proj
                positions = next((self._positions[part] for part in around if part in self._positions), 0)
                is_lookup = isinstance(around[0], nn.Embedding | nn.EmbeddingBag)
                multiply_adds[name] += 0 if tensor.ndim < 2 or is_lookup else positions * tensor.numel()
        self._multiply_adds = dict(multiply_adds)
        return True

    def stop(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def multiply_adds(self, structure: Structure) -> dict[str, int]:
        """The multiply-adds of each component in the forward pass of the counted batch, 0 before one was counted."""
        return {name: self._multiply_adds.get(name, 0) for name in structure.components}

    def saved_share(self, structure: Structure, trained: Iterable[str]) -> float | None:
        """The share of the multiply-adds of a training step that is saved; None before a batch has been counted.

        Args:
            structure: The components.
            trained: Names of the components that are trained.
        """
        depths = {name: component.depth for name, component in structure.components.items()}
        work = self.multiply_adds(structure)
        whole = step_cost(work, depths, depths)
        return 1 - step_cost(work, depths, set(trained)) / whole if whole else None

    def _add_positions(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        source = args if isinstance(module, _ConvTransposeNd) else output
        tensor = next((value for value in _values_in(source) if isinstance(value, Tensor) and value.ndim), None)
        if tensor is not None:
            # the first size of a convolution's weight is the number of channels of the tensor chosen above
            channels = module.weight.shape[0] if isinstance(module, _ConvNd) else tensor.shape[-1]
            self._positions[module] += tensor.numel() // max(channels, 1)


def _values_in(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple | list) else [value]
