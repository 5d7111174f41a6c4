"""Norm layers that keep what they have gathered of the data, whoever calls ``train()``."""

from collections.abc import Collection, Mapping
from functools import partial
from weakref import WeakSet

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from structurenet_pl.structure.events import lineage
from structurenet_pl.structure.partition import Structure

_HELD: WeakSet[nn.Module] = WeakSet()  # not a mark on the layer, which may be copied


class HeldNorms:
    """Holds norm layers in eval mode; what stands around and inside them may be switched back and forth."""

    def __init__(self) -> None:
        self._modes: dict[nn.Module, bool] = {}  # what they were in before

    def hold(self, layers: Collection[nn.Module]) -> None:
        """Hold these layers, and no others. To be called while the module is in training."""
        self.release(training=True)
        self._modes = {layer: layer.training for layer in layers}
        for layer, mode in self._modes.items():
            _HELD.add(layer)
            layer.train = partial(_train, layer, before=mode)  # type: ignore[method-assign]
            layer.training = False

    def release(self, training: bool) -> None:
        """Hold none.

        Their modes are remembered until others are held: Lightning puts back after a validation what it found before.

        Args:
            training: Whether the module is in training; if not, they stay in eval mode as all else.
        """
        for layer, mode in self._modes.items():
            _HELD.discard(layer)
            vars(layer).pop("train", None)
            layer.training = mode and training


def _train(layer: nn.Module, mode: bool = True, before: bool = True) -> nn.Module:
    """Stands in for ``layer.train``; in copies of the layer it does what it always does."""
    type(layer).train(layer, mode)
    if layer in _HELD:
        layer.training = False
    return layer


def release_copies(module: nn.Module) -> None:
    """Release what is a copy of held layers, made in the middle of a fit."""
    for part in module.modules():
        held = vars(part).get("train")
        if isinstance(held, partial) and held.func is _train and part not in _HELD:
            del part.train
            part.training = held.keywords["before"]


def norm_layers(module: nn.Module, structure: Structure) -> dict[nn.Module, str]:
    """The layers that gather statistics in training, and the component that each belongs to.

    One without parameters belongs to the component around it, or else to that of the parameters before it.
    """
    owners = _owners(module, structure.owner)
    latest = next(iter(structure.parameters), "")
    found: dict[nn.Module, str] = {}
    for path, part in module.named_modules():
        own = [structure.owner[tensor] for tensor in part.parameters(recurse=False) if tensor in structure.owner]
        latest = own[-1] if own else latest
        if _gathers(part):
            around = [owners[outer] for outer in reversed(["", *lineage(path)]) if owners.get(outer)]
            found[part] = next(iter(around[0])) if around and len(around[0]) == 1 else latest
    return found


def _gathers(part: nn.Module) -> bool:
    """Whether it has running statistics, or estimates a spectral norm."""
    running = any(part._buffers.get(name) is not None for name in ("running_mean", "running_var"))
    hooked = any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values())
    return running or hooked or isinstance(part, _SpectralNorm)


def _owners(module: nn.Module, owner: Mapping[nn.Parameter, str]) -> dict[str, set[str]]:
    """The components that have parameters in a module, by its path."""
    return {
        path: {owner[tensor] for tensor in part.parameters() if tensor in owner}
        for path, part in module.named_modules()
    }
