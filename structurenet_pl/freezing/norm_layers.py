"""Norm layers of frozen components, held in eval mode so that their running statistics stay."""

from collections.abc import Collection, Mapping
from functools import partial
from weakref import WeakSet

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm  # torch has no public class for this parametrization
from torch.nn.utils.spectral_norm import SpectralNorm

from structurenet_pl.structure.events import lineage
from structurenet_pl.structure.partition import Structure

_HELD: WeakSet[nn.Module] = WeakSet()  # no mark on the layer itself: copies of the layer would carry it along


class HeldNorms:
    """Holds norm layers in eval mode, even when the module around them is switched by ``train()`` and ``eval()``."""

    def __init__(self) -> None:
        self._modes: dict[nn.Module, bool] = {}  # `training` of each held layer before it was held

    def hold(self, layers: Collection[nn.Module]) -> None:
        """Hold these layers in eval mode, and no others. To be called while the module is in training mode."""
        self.release(training=True)
        self._modes = {layer: layer.training for layer in layers}
        for layer, mode in self._modes.items():
            _HELD.add(layer)
            # on the object, not on a class: only held layers differ, and a call by the module around them reaches it
            layer.train = partial(_train, layer, before=mode)  # type: ignore[method-assign]
            layer.training = False

    def release(self, training: bool) -> None:
        """Release all layers.

        Their modes stay known until the next ``hold``: a growth in a validation releases the layers in eval mode,
        Lightning then restores the modes that it found before the validation, and the next release corrects these.

        Args:
            training: Whether the module is in training mode. If not, the layers stay in eval mode.
        """
        for layer, mode in self._modes.items():
            _HELD.discard(layer)
            vars(layer).pop("train", None)
            layer.training = mode and training


def _train(layer: nn.Module, mode: bool = True, before: bool = True) -> nn.Module:
    """Replaces ``layer.train``. A copy of a held layer has this replacement too, but obeys ``mode`` as usual."""
    type(layer).train(layer, mode)
    if layer in _HELD:
        layer.training = False
    return layer


def release_copies(module: nn.Module) -> None:
    """Release layers that are copies of held layers, made in the middle of a fit."""
    for part in module.modules():
        held = vars(part).get("train")
        if isinstance(held, partial) and held.func is _train and part not in _HELD:
            del part.train
            part.training = held.keywords["before"]


def norm_layers(module: nn.Module, structure: Structure) -> dict[nn.Module, str]:
    """The layers that gather statistics in training, and the component of each.

    A layer without parameters belongs to the only component of the innermost module around it that has parameters. If
    that module has several components, the layer belongs to the component of the parameters defined before it.
    """
    owners = _owners(module, structure.owner)
    latest = next(iter(structure.parameters), "")
    component_of: dict[nn.Module, str] = {}
    for path, part in module.named_modules():
        own = [structure.owner[tensor] for tensor in part.parameters(recurse=False) if tensor in structure.owner]
        latest = own[-1] if own else latest
        if _gathers_statistics(part):
            around = [owners[outer] for outer in reversed(["", *lineage(path)]) if owners.get(outer)]
            component_of[part] = next(iter(around[0])) if around and len(around[0]) == 1 else latest
    return component_of


def _gathers_statistics(part: nn.Module) -> bool:
    """Whether a module has running statistics, or estimates a spectral norm.

    It is known by its buffers, so that norm layers of any library count, not only subclasses of torch's. ``_buffers``
    and ``_forward_pre_hooks`` are torch's only record of the buffers and hooks of one module by name and object.
    """
    running = any(part._buffers.get(name) is not None for name in ("running_mean", "running_var"))
    hooked = any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values())
    return running or hooked or isinstance(part, _SpectralNorm)


def _owners(module: nn.Module, owner: Mapping[nn.Parameter, str]) -> dict[str, set[str]]:
    """The components that have parameters in a module, by its path."""
    return {
        path: {owner[tensor] for tensor in part.parameters() if tensor in owner}
        for path, part in module.named_modules()
    }
