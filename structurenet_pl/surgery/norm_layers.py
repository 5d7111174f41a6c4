"""Norm layers that keep their running statistics, whoever calls ``train()``."""

from collections.abc import Collection, Mapping
from functools import partial
from weakref import WeakSet

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from structurenet_pl.components import Structure
from structurenet_pl.events import lineage


class HeldNorms:
    """Holds norm layers in eval mode; parents may be switched back and forth."""

    def __init__(self) -> None:
        self._modes: dict[nn.Module, bool] = {}  # what they were in before

    def hold(self, layers: Collection[nn.Module]) -> None:
        """Hold these layers, and no others. To be called while the module is in training."""
        self.release()
        self._modes = {layer: layer.training for layer in layers}
        for layer in layers:
            _HELD.add(layer)
            layer.train = partial(_train, layer)  # type: ignore[method-assign]
            layer.eval()

    def release(self) -> None:
        """Hold none.

        Their modes are remembered until others are held: Lightning puts back after a validation what it found before.
        """
        for layer, mode in self._modes.items():
            _HELD.discard(layer)
            vars(layer).pop("train", None)
            layer.training = mode


_HELD: WeakSet[nn.Module] = WeakSet()  # not a mark on the layer, which may be copied


def _train(layer: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for ``layer.train``; in copies of the layer it does what it always does."""
    return type(layer).train(layer, mode and layer not in _HELD)


def norm_layers(module: nn.Module, structure: Structure) -> dict[nn.Module, str]:
    """The norm layers with running statistics, and the component that each belongs to.

    One without parameters belongs to the component around it, or else to that of the parameters before it.
    """
    owners = _owners(module, structure.owner)
    latest = next(iter(structure.parameters), "")
    found: dict[nn.Module, str] = {}
    for path, part in module.named_modules():
        own = [structure.owner[tensor] for tensor in part.parameters(recurse=False) if tensor in structure.owner]
        latest = own[-1] if own else latest
        if isinstance(part, _NormBase) and part.running_mean is not None:
            around = [owners[outer] for outer in reversed(["", *lineage(path)]) if owners.get(outer)]
            found[part] = next(iter(around[0])) if around and len(around[0]) == 1 else latest
    return found


def _owners(module: nn.Module, owner: Mapping[nn.Parameter, str]) -> dict[str, set[str]]:
    """The components that have parameters in a module, by its path."""
    return {
        path: {owner[tensor] for tensor in part.parameters() if tensor in owner}
        for path, part in module.named_modules()
    }
