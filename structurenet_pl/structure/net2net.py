"""Growth that keeps the output of the network: wider layers, and new layers that start as the identity."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from structurenet_pl.structure.net2net_checks import (
    PER_UNIT,
    Conv,
    Layer,
    Norm,
    check_kind,
    check_noise,
    check_widen,
    units_of,
)
from structurenet_pl.structure.tensor_mapping import Copying, note_copying

CONVOLUTIONS: Mapping[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@torch.no_grad()
def widen(
    layer: Layer, following: Layer | Sequence[Layer], width: int, norm: Norm | None = None, noise: float = 0.0
) -> None:
    r"""Give a layer more units, such that the output of the network stays the same.

    .. math::
        h'_i = h_{g(i)}, \qquad
        w'_{ki} = \frac{w_{k g(i)}}{\lvert \{ j : g(j) = g(i) \} \rvert}, \qquad
        g(i) = i \text{ for } i < n

    where :math:`h_i` are the :math:`n` units of the layer (features or channels) and :math:`w_{ki}` the weights with
    which the following layers read them. The old units keep their positions. The new units follow behind them: each
    is a copy of an old unit :math:`g(i)`, drawn uniformly with the global random number generator of torch. The
    following layers divide the weight of a unit among its copies; their biases stay. The output is the same up to
    rounding.

    The modules stay and change in place. Parameters whose shape changes are replaced by new ones of the same dtype,
    device and ``requires_grad``, without gradients, so call it in a growth method. A tensor tied to another module is
    no longer tied.

    Modules between the layers must act on each unit separately: activations, pooling, flattening, and the given
    ``norm``. Dropout in training does so, too, but then the output is the same in expectation only. A layer cannot be
    widened if a residual connection adds to its output.

    Copies have equal gradients: without noise (or dropout) they stay copies during all further training.

    Args:
        layer: Linear or convolution in one group; weight of shape ``(n, inputs, ...)``.
        following: The layer, or all layers, that read the output; weight of shape ``(outputs, n, ...)``. A Linear
            behind a convolution may read flattened maps, ``(outputs, n * positions)``, channel by channel.
        width: New number of units, > n.
        norm: The norm of n features in between, if there is one: BatchNorm or InstanceNorm, for which the output stays
            the same in train and eval mode. It would not for norms that average over units (LayerNorm, GroupNorm).
        noise: Standard deviation of Gaussian noise on the incoming weights of each new unit, relative to their root
            mean square; >= 0. The output then changes a little; 0.01 is enough for the copies to part in training.

    Raises:
        TypeError: If a module is of another kind, or holds tensors that torch did not give it (pruning,
            parametrizations, masks).
        ValueError: If sizes do not fit, ``width`` is not larger, a convolution has groups, modules share a
            parameter, ``following`` is empty, or ``noise`` is negative or not finite. The modules are then unchanged.

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
    check_widen(layer, readers, width, norm, noise)
    old = units_of(layer)
    # by the generator of the CPU: the same units on every device
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
    r"""A new layer whose output equals its input, to be inserted behind the given layer.

    .. math:: W_{ij} = \delta_{ij}, \qquad b = 0

    in a convolution at the centre of the kernel, and 0 elsewhere. Behind an activation with
    :math:`\sigma(\sigma(x)) = \sigma(x)`, as ReLU, ``nn.Sequential(identity_like(layer), nn.ReLU())`` changes nothing.
    A norm in between must start as the identity, too. The caller has to see to that: a new BatchNorm in train mode does
    not.

    Args:
        layer: Linear or convolution with n outputs. The new layer has n inputs and outputs; dtype, device, kernel
            size and padding mode of this one; a bias if this one has a bias; stride 1, padding ``"same"``, no groups,
            no dilation. A kernel of even size has no centre: it becomes larger by one.
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
    check_kind("layer", layer)
    check_noise(noise)
    units, bias = units_of(layer), layer.bias is not None
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    identity: Layer
    if isinstance(layer, nn.Linear):
        identity = nn.Linear(units, units, bias=bias, **place)
        nn.init.eye_(identity.weight)
    else:
        kernel = tuple(size | 1 for size in layer.kernel_size)  # the next odd number
        make = CONVOLUTIONS[len(kernel)]
        identity = make(units, units, kernel, padding="same", padding_mode=layer.padding_mode, bias=bias, **place)
        nn.init.dirac_(identity.weight)
    with torch.no_grad():
        identity.weight.add_(_noise(identity.weight, noise))
    if identity.bias is not None:
        nn.init.zeros_(identity.bias)
    return identity


def _copy_units(module: Layer | Norm, source: Tensor) -> None:
    """Make unit i of a module a copy of its unit ``source[i]``."""
    for name in PER_UNIT:
        if getattr(module, name, None) is not None:
            _replace(module, name, Copying(0, source))


def _share_weights(reader: Layer, source: Tensor, old: int) -> None:
    """Make a following layer read the copies: the weight of each old unit is divided evenly among its copies."""
    counts = source.new_zeros(old).index_add(0, source, torch.ones_like(source))
    positions = reader.weight.shape[1] // old  # inputs for each channel, > 1 for a Linear behind a convolution
    read = (source[:, None] * positions + torch.arange(positions)).flatten()
    _replace(reader, "weight", Copying(1, read, counts[source].repeat_interleave(positions)))
    if isinstance(reader, nn.Linear):
        reader.in_features = len(read)
    else:
        reader.in_channels = len(read)


def _replace(module: nn.Module, name: str, step: Copying) -> None:
    """Replace a parameter by a new parameter, or a buffer by a new buffer."""
    old: Tensor = getattr(module, name)
    value = step.of(old)
    new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    note_copying(new, old, step)
    setattr(module, name, new)


def _noise(weight: Tensor, noise: float) -> Tensor:
    """Gaussian noise, relative to the root mean square of the incoming weights of each unit."""
    mean_square = weight.square().mean(tuple(range(1, weight.ndim)), keepdim=True)
    return noise * mean_square.sqrt() * torch.randn_like(weight)
