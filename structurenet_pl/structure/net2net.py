"""Growth that keeps the function: layers that get wider, and new layers that start as the identity."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor, nn

from structurenet_pl.structure.tensor_mapping import Copying, note_copying

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

CONVOLUTIONS: Mapping[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PER_UNIT = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def widen(
    layer: Layer, following: Layer | Sequence[Layer], width: int, norm: Norm | None = None, noise: float = 0.0
) -> None:
    r"""Give a layer more units, such that the network computes what it did.

    .. math::
        h'_i = h_{g(i)}, \qquad
        w'_{ki} = \frac{w_{k g(i)}}{\lvert \{ j : g(j) = g(i) \} \rvert}, \qquad
        g(i) = i \text{ for } i < n

    where :math:`h_i` are the :math:`n` units of the layer (features or channels) and :math:`w_{ki}` the weights with
    which the following layers read them. The old units stay where they are. The new ones stand behind them: each is
    a copy of an old unit :math:`g(i)`, drawn uniformly with the global random number generator of torch. Readers
    divide the weight of a unit among its copies; their biases stay. The output is the same up to rounding.

    The modules stay and change in place. Parameters whose shape changes are replaced by new ones of the same dtype,
    device and ``requires_grad``, without gradients, so call it in a growth method. A tensor tied to another module is
    no longer tied.

    What stands between the layers must treat each unit for itself: activations, pooling, flattening, and the given
    ``norm``. Dropout in training does so, too, but then the output is the same in expectation only. Where a residual
    connection adds something to the output of the layer, it cannot be widened.

    Copies have equal gradients: without noise (or dropout) they stay copies however long they are trained.

    Args:
        layer: Linear or convolution in one group; weight of shape ``(n, inputs, ...)``.
        following: The layer, or all layers, that read the output; weight of shape ``(outputs, n, ...)``. A Linear
            behind a convolution may read flattened maps, ``(outputs, n * positions)``, channel by channel.
        width: Number of units that it shall have, > n.
        norm: The norm of n features in between, if there is one: BatchNorm or InstanceNorm, which keep the output in
            train and eval mode. Norms that average over units (LayerNorm, GroupNorm) cannot.
        noise: Standard deviation of Gaussian noise on the incoming weights of each new unit, relative to their root
            mean square; >= 0. The output then changes a little; 0.01 is enough for the copies to part in training.

    Raises:
        TypeError: If a module is of another kind, or holds other tensors than torch gave it (pruning,
            parametrizations, masks).
        ValueError: If sizes do not fit, ``width`` is not larger, a convolution has groups, modules share a
            parameter, nothing follows, or ``noise`` is negative or not finite. The modules are then as they were.

    Example:
        >>> from structurenet_pl import widen
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.randn(8, 4)
        >>> before = net(x)
        >>> widen(net[0], net[2], width=5)
        >>> net[0], net[2]
        (Linear(in_features=4, out_features=5, bias=True), Linear(in_features=5, out_features=2, bias=True))
        >>> torch.allclose(net(x), before, atol=1e-6)
        True

    References:
        Chen et al., `Net2Net: Accelerating Learning via Knowledge Transfer <https://arxiv.org/abs/1511.05641>`_,
        2015, Net2WiderNet.
    """
    readers = [following] if isinstance(following, nn.Module) else list(following)
    _check(layer, readers, width, norm, noise)
    old = _units(layer)
    source = torch.cat([torch.arange(old), torch.randint(old, (width - old,))])

    _copy_units(layer, source)
    layer.weight[old:].add_(_noise(layer.weight[old:], noise))
    if isinstance(layer, nn.Linear):
        layer.out_features = width
    else:
        layer.out_channels = width
    if norm is not None:
        _copy_units(norm, source)
        norm.num_features = width
    for reader in readers:
        _share_weights(reader, source, old)


def identity_like(layer: Layer, noise: float = 0.0) -> Layer:
    r"""A new layer that gives back what it reads, to stand behind the given one.

    .. math:: W_{ij} = \delta_{ij}, \qquad b = 0

    in a convolution at the centre of the kernel, and 0 elsewhere. Behind an activation with
    :math:`\sigma(\sigma(x)) = \sigma(x)`, as ReLU, ``nn.Sequential(identity_like(layer), nn.ReLU())`` changes nothing.
    A norm in between is the business of the caller: it has to start as the identity itself, and a new BatchNorm in
    train mode does not.

    Args:
        layer: Linear or convolution with n outputs. The new layer has n inputs and outputs, and dtype, device, kernel
            size and padding mode of this one, and a bias if it has one; stride 1, padding ``"same"``, no groups, no
            dilation. A kernel of even size has no centre: it becomes larger by one.
        noise: Standard deviation of Gaussian noise on the weights, relative to the root mean square of the incoming
            weights of a unit; >= 0. The output then changes about as much.

    Raises:
        TypeError: If the layer is of another kind.
        ValueError: If ``noise`` is negative or not finite.

    Example:
        >>> from structurenet_pl import identity_like
        >>> identity_like(nn.Linear(3, 2)).weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        >>> identity_like(nn.Conv2d(1, 8, 3, stride=2))
        Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=same)

    References:
        Chen et al., `Net2Net: Accelerating Learning via Knowledge Transfer <https://arxiv.org/abs/1511.05641>`_,
        2015, Net2DeeperNet.
    """
    _check_kind("layer", layer)
    _check_noise(noise)
    units, bias = _units(layer), layer.bias is not None
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    identity: Layer
    if isinstance(layer, nn.Linear):
        identity = nn.Linear(units, units, bias=bias, **place)
        nn.init.eye_(identity.weight)
    else:
        kernel = tuple(size | 1 for size in layer.kernel_size)
        make = CONVOLUTIONS[len(kernel)]
        identity = make(units, units, kernel, padding="same", padding_mode=layer.padding_mode, bias=bias, **place)
        nn.init.dirac_(identity.weight)
    with torch.no_grad():
        identity.weight.add_(_noise(identity.weight, noise))
    if identity.bias is not None:
        nn.init.zeros_(identity.bias)
    return identity


def _units(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _copy_units(module: Layer | Norm, source: Tensor) -> None:
    """Make unit i of a module a copy of its unit ``source[i]``."""
    for name in PER_UNIT:
        if getattr(module, name, None) is not None:
            _replace(module, name, Copying(0, source))


def _share_weights(reader: Layer, source: Tensor, old: int) -> None:
    """Let a layer read copies: the weight of each of the old units is divided evenly among them."""
    counts = source.new_zeros(old).index_add(0, source, torch.ones_like(source))
    positions = reader.weight.shape[1] // old  # of each channel, where a Linear stands behind a convolution
    read = (source[:, None] * positions + torch.arange(positions)).flatten()
    _replace(reader, "weight", Copying(1, read, counts[source].repeat_interleave(positions)))
    if isinstance(reader, nn.Linear):
        reader.in_features = len(read)
    else:
        reader.in_channels = len(read)


def _replace(module: nn.Module, name: str, step: Copying) -> None:
    """Put a new parameter in the place of a parameter, a buffer in that of a buffer."""
    old: Tensor = getattr(module, name)
    value = step.of(old)
    new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    note_copying(new, old, step)
    setattr(module, name, new)


def _noise(weight: Tensor, noise: float) -> Tensor:
    """Gaussian noise, relative to the root mean square of the incoming weights of each unit."""
    mean_square = weight.square().mean(tuple(range(1, weight.ndim)), keepdim=True)
    return noise * mean_square.sqrt() * torch.randn_like(weight)


def _check(layer: Layer, readers: Sequence[Layer], width: int, norm: Norm | None, noise: float) -> None:
    """Refuse what cannot be widened, before anything is changed."""
    if not readers:
        raise ValueError("following is empty, so the output would change its shape: give the layers that read it")
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
            "layer, norm and following share a parameter, or a module is named twice: name each module once, and give "
            "each parameters of its own"
        )
    if not isinstance(width, int) or width <= _units(layer):
        raise ValueError(f"width must be an int larger than the {_units(layer)} units of the layer, got {width!r}")
    _check_noise(noise)


def _check_kind(name: str, module: nn.Module) -> None:
    if not isinstance(module, Layer):
        raise TypeError(
            f"{name} must be a Linear, Conv1d, Conv2d or Conv3d, got {type(module).__name__}: give the layer itself, "
            "not the module that holds it"
        )


def _check_tensors(name: str, module: nn.Module) -> None:
    tensors = {key for key, _ in chain(module.named_parameters(), module.named_buffers())}
    if others := tensors - {*PER_UNIT, "num_batches_tracked"}:
        raise TypeError(
            f"{name} is a {type(module).__name__} with {sorted(others)}, which widen cannot copy: remove pruning and "
            "parametrizations first, and widen a layer with a mask of its own by hand"
        )


def _check_layer(name: str, layer: Layer) -> None:
    _check_kind(name, layer)
    _check_tensors(name, layer)
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise ValueError(
            f"{name} is a convolution with groups={layer.groups}, and copies would fall into other groups: only "
            "groups=1 can be widened"
        )


def _check_reader(name: str, reader: Layer, layer: Layer) -> None:
    if isinstance(layer, nn.Linear) and not isinstance(reader, nn.Linear):
        raise TypeError(f"{name} is a {type(reader).__name__} behind a Linear, which only a Linear can follow")
    units = _units(layer)
    inputs = reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels
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
    if norm.num_features != _units(layer):
        raise ValueError(
            f"norm has {norm.num_features} features, expected the {_units(layer)} units of the layer: give the norm "
            "that stands directly behind the layer"
        )


def _check_noise(noise: float) -> None:
    if not 0 <= noise < inf:
        raise ValueError(f"noise must be finite and >= 0, got {noise}")
