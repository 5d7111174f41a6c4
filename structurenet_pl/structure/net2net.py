"""Growth that keeps the output of the network: wider layers, and new layers that start as the identity."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from structurenet_pl.structure.arguments import checks_arguments
from structurenet_pl.structure.net2net_checks import (
    Conv,
    Layer,
    Norm,
    Scheme,
    check_kind,
    check_noise,
    check_widen,
    units_of,
)
from structurenet_pl.structure.new_units import initialize_new, initialize_new_features, read_units, select_units
from structurenet_pl.structure.sharded_tensors import gather_parameters
from structurenet_pl.structure.tensor_mapping import NEW_ENTRY

CONVOLUTIONS: Mapping[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@checks_arguments
@torch.no_grad()
def widen(
    layer: Layer,
    following: Layer | Sequence[Layer],
    width: int,
    norm: Norm | None = None,
    noise: float = 0.0,
    scheme: Scheme = "copy",
    rescale: bool = False,
) -> None:
    r"""Give a layer more units, such that the output of the network stays the same.

    The :math:`n` old units (features or channels) keep their positions, and the new units follow behind them, up to
    :math:`m`, the ``width``. Let :math:`v_i` be the incoming weights and the bias of unit :math:`i`, and :math:`w_{ki}`
    the weights with which the following layers read it; their biases stay. The new units are

    ``"copy"``: copies of old units :math:`g(i)`, drawn uniformly, which share the outgoing weight of the old unit,

    .. math::
        v'_i = v_{g(i)}, \qquad w'_{ki} = \frac{w_{k g(i)}}{c_{g(i)}}, \qquad
        c_j = \lvert \{ i : g(i) = j \} \rvert, \qquad g(i) = i \text{ for } i \le n;

    ``"zero"``: units with random incoming weights that nobody reads yet,

    .. math::
        v'_i \sim \text{initialization of the layer}, \qquad w'_{ki} = 0 \qquad \text{for } i > n;

    ``"pair"``: pairs of equal units with random weights, which the following layers read with opposite signs,

    .. math::
        V' = (V, X, X), \qquad W' = (W, Z, -Z), \qquad
        X, Z \sim \text{initialization of the layers at their new sizes}.

    The output is the same up to rounding. Training starts from different points: copies have equal gradients, so
    without noise (or dropout) they stay copies; units that nobody reads have no gradient on their incoming weights in
    the first step; the two units of a pair have opposite gradients and part at once. The random numbers are those of
    torch's global generators.

    With ``rescale=True``, the weights with which old units are read get the size that belongs to the larger width,
    :math:`m \, \overline{w'^2} = n \, \overline{w^2}`: the readers' pre-activations would keep their variance if all
    weights were drawn anew at this size, so old and new units can have one lr. The incoming weights get the inverse, so
    that the function stays:

    .. math::
        w' \to w' / a_i, \qquad v' \to a_i \, v', \qquad a_i =
        \begin{cases} 1 / \sqrt{c_{g(i)}} & \text{``copy''} \\ \sqrt{m / n} & \text{else, for } i \le n \end{cases}

    This holds if everything between the layers maps :math:`a x` to :math:`a` times the image of :math:`x` for
    :math:`a > 0`: ReLU, LeakyReLU, PReLU, pooling, dropout. Behind others (Tanh, GELU, SiLU) the output **changes**.
    With a ``norm``, its weight and bias are scaled in place of those of the layer. The momentum of an optimizer is not.

    The modules stay and change in place. Parameters whose shape changes are replaced by new ones of the same dtype,
    device and ``requires_grad``, without gradients, so call it in a growth method. A tensor tied to another module is
    no longer tied.

    Modules between the layers must act on each unit separately: activations, pooling, flattening, and the given
    ``norm``. Dropout in training does so, too, but then the output is the same in expectation only, except for
    ``"zero"``. A layer cannot be widened if a residual connection adds to its output.

    Args:
        layer: Linear or convolution in one group; weight of shape ``(n, inputs, ...)``.
        following: The layer, or all layers, that read the output; weight of shape ``(outputs, n, ...)``. A Linear
            behind a convolution may read flattened maps, ``(outputs, n * positions)``, channel by channel.
        width: New number of units, > n.
        norm: The norm of n features in between, if there is one: BatchNorm or InstanceNorm, for which the output stays
            the same in train and eval mode. It would not for norms that average over units (LayerNorm, GroupNorm).
            Its entries for new units are copied, or those of a new norm (weight 1, bias 0, mean 0, variance 1).
        noise: Standard deviation of Gaussian noise on the incoming weights of each copy, relative to their root
            mean square; >= 0, for ``"copy"`` only. The output then changes a little; 0.01 is enough for the copies to
            part in training.
        scheme: ``"copy"``, ``"zero"`` or ``"pair"``.
        rescale: Whether to rescale the weights of old units; behind a positively homogeneous activation only.

    Raises:
        TypeError: If a module is of another kind, or holds tensors that torch did not give it (pruning,
            parametrizations, masks).
        ValueError: If sizes do not fit, ``width`` is not larger, a convolution has groups, modules share a
            parameter, ``following`` is empty, ``noise`` is negative or not finite, or other than 0 without copies,
            ``scheme`` is unknown, ``"pair"`` would add an odd number of units, or ``rescale`` meets a norm without
            weight. The modules are then unchanged.

    Example:
        >>> from structurenet_pl import widen
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.randn(8, 4)
        >>> before = net(x)
        >>> widen(net[0], net[2], width=5)
        >>> net[0], net[2]
        (Linear(in_features=4, out_features=5, bias=True), Linear(in_features=5, out_features=2, bias=True))
        >>> widen(net[0], net[2], width=9, scheme="pair", rescale=True)
        >>> bool((net[2].weight[:, 5:7] == -net[2].weight[:, 7:]).all())
        True
        >>> torch.allclose(net(x), before, atol=1e-5)
        True

    References:
        ``"copy"``: Chen et al.,
        [Net2Net: Accelerating Learning via Knowledge Transfer](https://arxiv.org/abs/1511.05641), 2015, Net2WiderNet.
        ``"zero"``: as in Evci et al.,
        [GradMax: Growing Neural Networks using Gradient Information](https://arxiv.org/abs/2201.05125), 2022, new
        units have zeros on one side; there on the incoming side, and the outgoing weights maximize the gradient.
        ``"pair"`` and ``rescale``: Yuan et al.,
        [Accelerated Training via Incrementally Growing Neural Networks](https://arxiv.org/abs/2306.12700), 2023; there
        the outgoing weights are rescaled by the same factor and the incoming weights are not, so the output changes its
        scale. On the scale of widened layers also Yu et al.,
        [SPARKLING](https://arxiv.org/abs/2602.02472), 2026.
    """
    readers = [following] if isinstance(following, nn.Module) else list(following)
    check_widen(layer, readers, width, norm, noise, scheme, rescale)
    old = units_of(layer)
    if scheme == "copy":
        # by the generator of the CPU: the same units on every device
        source = torch.cat([torch.arange(old), torch.randint(old, (width - old,))])
        copies = source.new_zeros(old).index_add(0, source, torch.ones_like(source))[source]
        divisor = copies.double().sqrt()
    else:
        source = torch.cat([torch.arange(old), torch.full((width - old,), NEW_ENTRY)])
        copies = torch.ones_like(source)
        divisor = torch.full((width,), (old / width) ** 0.5, dtype=torch.float64)
    incoming = divisor if rescale else None
    gather_parameters(layer)  # growth divides them again
    # a norm would undo a scale of its input, so its own weight and bias take the scale
    select_units(layer, source, incoming if norm is None else None)
    if isinstance(layer, nn.Linear):
        layer.out_features = width
    else:
        layer.out_channels = width
    if norm is not None:
        gather_parameters(norm)
        select_units(norm, source, incoming)
        norm.num_features = width
    for reader in readers:
        gather_parameters(reader)  # one after the other, so that the old tensors are not in memory together
        read_units(reader, source, copies if incoming is None else copies / incoming, old)

    if scheme == "copy":
        _add_noise(layer.weight[old:], noise)
        return
    initialize_new(layer, 0, old, repeated=1 if scheme == "pair" else None)
    if norm is not None:
        initialize_new_features(norm, old)
    for reader in readers if scheme == "pair" else ():
        initialize_new(reader, 1, old * (reader.weight.shape[1] // width), repeated=-1)


@checks_arguments
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
        Chen et al., [Net2Net: Accelerating Learning via Knowledge Transfer](https://arxiv.org/abs/1511.05641),
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
        _add_noise(identity.weight, noise)
    if identity.bias is not None:
        nn.init.zeros_(identity.bias)
    return identity


def _add_noise(weight: Tensor, noise: float) -> None:
    """Add Gaussian noise, relative to the root mean square of the incoming weights of each unit."""
    if noise:  # random numbers would take longer than all the rest of a widening
        mean_square = weight.square().mean(tuple(range(1, weight.ndim)), keepdim=True)
        weight.add_(noise * mean_square.sqrt() * torch.randn_like(weight))
