"""Checks of the arguments of ``widen`` and ``identity_like``, and the kinds of layers that these support."""

from collections.abc import Sequence
from itertools import chain
from math import inf
from typing import Literal, TypeAlias

from torch import nn

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer: TypeAlias = nn.Linear | Conv
Norm: TypeAlias = (
    nn.BatchNorm1d
    | nn.BatchNorm2d
    | nn.BatchNorm3d
    | nn.SyncBatchNorm
    | nn.InstanceNorm1d
    | nn.InstanceNorm2d
    | nn.InstanceNorm3d
)
Scheme: TypeAlias = Literal["copy", "zero", "pair"]

PER_UNIT = ("weight", "bias", "running_mean", "running_var")  # tensors with one entry for each unit along dim 0


def units_of(layer: Layer) -> int:
    """The number of units of a layer: its features or channels."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def check_widen(
    layer: Layer,
    readers: Sequence[Layer],
    width: int,
    norm: Norm | None,
    noise: float,
    scheme: Scheme,
    rescale: bool,
) -> None:
    """Check all arguments of ``widen`` before it changes anything.

    Raises:
        TypeError: If a module is of an unsupported kind.
        ValueError: If sizes, groups, sharing, noise or scheme do not allow it.
    """
    if not readers:
        raise ValueError(
            "following is empty, so the output of the network would change its shape: give the layers that read the "
            "output of the layer"
        )
    _check_layer("layer", layer)
    for index, reader in enumerate(readers):
        _check_layer(f"following[{index}]", reader)
        _check_reader(f"following[{index}]", reader, layer)
    if norm is not None:
        _check_norm(norm, layer)
    modules = [layer, *readers] if norm is None else [layer, *readers, norm]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if len(set(parameters)) < len(parameters):
        raise ValueError(
            "layer, norm and following share a parameter, or a module is given twice: give each module once, with "
            "parameters of its own"
        )
    if width <= units_of(layer):
        raise ValueError(f"width must be larger than the {units_of(layer)} units of the layer, got {width!r}")
    check_noise(noise)
    _check_scheme(scheme, width - units_of(layer), noise)
    if rescale and norm is not None and norm.weight is None:
        raise ValueError(
            f"rescale=True scales the weight and the bias of the norm, and this {type(norm).__name__} has none "
            "(affine=False): give a norm with affine=True, or leave rescale out"
        )


def _check_scheme(scheme: Scheme, added: int, noise: float) -> None:
    if scheme == "pair" and added % 2:
        raise ValueError(
            f"scheme='pair' adds units in pairs, and this width would add {added}: give a width that adds an even "
            "number of units"
        )
    if noise and scheme != "copy":
        raise ValueError(
            f"noise={noise} parts copies from each other, and scheme={scheme!r} makes none that stay alike: leave "
            "noise out, or take scheme='copy'"
        )


def check_kind(name: str, module: nn.Module) -> None:
    """Check that a module is a supported layer.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(module, Layer):
        raise TypeError(
            f"{name} must be a Linear, Conv1d, Conv2d or Conv3d, got {type(module).__name__}: give the layer itself, "
            "not the module that holds it"
        )


def _check_tensors(name: str, module: nn.Module) -> None:
    tensors = {key for key, _ in chain(module.named_parameters(), module.named_buffers())}
    if unknown := tensors - {*PER_UNIT, "num_batches_tracked"}:
        raise TypeError(
            f"{name} is a {type(module).__name__} with {sorted(unknown)}, which widen cannot copy: remove pruning and "
            "parametrizations first, and widen a layer with a mask of its own by hand"
        )


def _check_layer(name: str, layer: Layer) -> None:
    check_kind(name, layer)
    _check_tensors(name, layer)
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise ValueError(
            f"{name} is a convolution with groups={layer.groups}, and copies would stand in other groups: only "
            "groups=1 can be widened"
        )


def _check_reader(name: str, reader: Layer, layer: Layer) -> None:
    if isinstance(layer, nn.Linear) and not isinstance(reader, nn.Linear):
        raise TypeError(f"{name} is a {type(reader).__name__} behind a Linear, expected a Linear")
    units = units_of(layer)
    inputs = reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels
    # a Linear behind a convolution reads flattened maps: several inputs for each channel
    maps = isinstance(reader, nn.Linear) and not isinstance(layer, nn.Linear)
    if inputs == 0 or (inputs % units if maps else inputs != units):
        raise ValueError(
            f"{name} has {inputs} inputs, expected {'a multiple of ' if maps else ''}the {units} units of the layer: "
            "give layers that read all of its output and nothing else"
        )


def _check_norm(norm: Norm, layer: Layer) -> None:
    if not isinstance(norm, Norm):
        raise TypeError(
            f"norm must be a BatchNorm or InstanceNorm, got {type(norm).__name__}: norms that average over the units "
            "(LayerNorm, RMSNorm, GroupNorm) see another average when some units are copied, so the output cannot be "
            "kept; widen a layer that has none behind it"
        )
    _check_tensors("norm", norm)
    if norm.num_features != units_of(layer):
        raise ValueError(
            f"norm has {norm.num_features} features, expected the {units_of(layer)} units of the layer: give the norm "
            "that stands directly behind the layer"
        )


def check_noise(noise: float) -> None:
    """Check a relative standard deviation.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if not 0 <= noise < inf:
        raise ValueError(f"noise must be finite and >= 0, got {noise}")
