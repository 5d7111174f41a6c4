"""Growth that keeps the function: outputs before and after, the numbers by hand, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from helpers import assert_same, weights
from structurenet_pl import identity_like, widen

# Splitting the terms of a sum in float64 costs a few roundings: 2e-15 of the largest output is the most that we saw. A
# single output may be much smaller than its terms.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

FLAT, SIGNAL, IMAGE, VOLUME = (16, 5), (16, 2, 9), (16, 2, 6, 5), (16, 2, 4, 5, 4)

# layers in order (the first is widened, the last reads it), shape of the input
NETS = {
    "linear": (lambda: [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)], FLAT),
    "linear of sequences": (lambda: [nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3)], (4, 7, 5)),
    "no bias": (lambda: [nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)], FLAT),
    "conv1d": (lambda: [nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 3, 3, stride=2)], SIGNAL),
    "conv2d": (lambda: [nn.Conv2d(2, 6, (3, 1)), nn.MaxPool2d(2), nn.Conv2d(6, 3, 2, padding=1)], IMAGE),
    "conv3d": (lambda: [nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Conv3d(6, 3, 1)], VOLUME),
    "circular": (lambda: [nn.Conv1d(2, 6, 3), nn.Conv1d(6, 3, 3, padding=1, padding_mode="circular")], SIGNAL),
    "conv1d, flattened": (lambda: [nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 7, 3)], SIGNAL),
    "conv2d, flattened": (lambda: [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 3, 3)], IMAGE),
    "conv3d, flattened": (lambda: [nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 2 * 3 * 2, 3)], VOLUME),
    "conv2d, pooled": (
        lambda: [nn.Conv2d(2, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)],
        IMAGE,
    ),
    "batch norm": (lambda: [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)], FLAT),
    "batch norm 1d": (lambda: [nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 3, 3)], SIGNAL),
    "batch norm 2d": (
        lambda: [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 3, 3)],
        IMAGE,
    ),
    "batch norm 3d": (lambda: [nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 3, 1)], VOLUME),
    "batch norm, bare": (
        lambda: [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, affine=False, track_running_stats=False), nn.Conv2d(6, 3, 1)],
        IMAGE,
    ),
    "instance norm 1d": (lambda: [nn.Conv1d(2, 6, 3), nn.InstanceNorm1d(6), nn.ReLU(), nn.Conv1d(6, 3, 3)], SIGNAL),
    "instance norm 2d": (
        lambda: [
            nn.Conv2d(2, 6, 3),
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Conv2d(6, 3, 1),
        ],
        IMAGE,
    ),
    "instance norm 3d": (
        lambda: [nn.Conv3d(2, 6, 3), nn.InstanceNorm3d(6, affine=True), nn.ReLU(), nn.Conv3d(6, 3, 1)],
        VOLUME,
    ),
}


def made(name):
    """A network in float64 whose norms are not what they were born as, and its input."""
    make, shape = NETS[name]
    net = nn.Sequential(*make()).double()
    for module in net:
        if "Norm" in type(module).__name__:
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, 0.5, 2.0)
    return net, torch.randn(shape, dtype=torch.float64)


def norm_of(net):
    return next((module for module in net if "Norm" in type(module).__name__), None)


def drawn(layer, old):
    """For each unit the first one with the same incoming weights."""
    rows = layer.weight.flatten(1)
    return torch.tensor([next(i for i in range(old) if torch.equal(rows[i], row)) for row in rows])


SCHEMES = ["copy", "zero", "pair"]
WIDTHS = [("copy", 7), ("copy", 12), ("copy", 40), ("zero", 7), ("zero", 40), ("pair", 8), ("pair", 40)]
# those in which everything between the layers is positively homogeneous, and a norm has a weight
HOMOGENEOUS = [
    name
    for name, (make, _) in NETS.items()
    if not any(isinstance(module, nn.Tanh | nn.GELU) or getattr(module, "affine", True) is False for module in make())
]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("scheme", "width"), WIDTHS)
@pytest.mark.parametrize("name", NETS)
def test_output_stays(name, scheme, width, train):
    assert_output_stays(name, width, train, scheme=scheme)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("scheme", "width"), WIDTHS)
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_output_stays_with_rescaled_weights(name, scheme, width, train):
    assert_output_stays(name, width, train, scheme=scheme, rescale=True)


def assert_output_stays(name, width, train, **how):
    net, x = made(name)
    before = copy.deepcopy(net)
    for module in (net, before):
        module.train(train)
    widen(net[0], net[-1], width, norm=norm_of(net), **how)
    torch.testing.assert_close(net(x), before(x), **CLOSE)
    net.eval(), before.eval()  # after one step of the running statistics, if it was in train mode
    torch.testing.assert_close(net(x), before(x), **CLOSE)


@pytest.mark.parametrize("name", NETS)
def test_old_units_stay_where_they_are(name):
    net, _ = made(name)
    before = weights(net)
    widen(net[0], net[-1], 9, norm=norm_of(net), noise=0.1)
    after = weights(net)
    reader = f"{len(net) - 1}.weight"
    for key, old in before.items():
        if key == reader:
            continue
        assert torch.equal(after[key][: len(old)] if old.ndim and key[0] != reader[0] else after[key], old), key
    old, new = (tensors[reader].reshape(3, units, -1) for tensors, units in ((before, 6), (after, 9)))
    copies = (old / new[:, :6]).round()
    assert set(copies.unique().tolist()) <= {1.0, 2.0, 3.0, 4.0}
    assert torch.equal(new[:, :6], old / copies)
    assert copies[0, :, 0].sum() == 9


@pytest.mark.parametrize("scheme", ["zero", "pair"])
@pytest.mark.parametrize("name", NETS)
def test_new_units_are_added_behind_the_old_ones(name, scheme):
    """The old entries of all tensors are equal to the bit; the new ones are what the scheme says."""
    net, _ = made(name)
    before, norm = weights(net), norm_of(net)
    widen(net[0], net[-1], 10, norm=norm, scheme=scheme)
    after, reader = weights(net), f"{len(net) - 1}.weight"
    for key, old in before.items():
        if key == reader or old.ndim == 0:
            continue
        new = after[key]
        assert torch.equal(new[: len(old)], old), key
        added = new[len(old) :]
        if key.startswith("0."):
            assert len(added) == 4
            bound = net[0].weight[0].numel() ** -0.5  # of torch's own initialization of Linear and convolutions
            assert 0 < added.abs().min() <= added.abs().max() <= bound
            assert torch.equal(added[:2], added[2:]) == (scheme == "pair")
        elif not key.startswith(reader[:-6]):
            assert set(added.tolist()) == {0.0 if key.endswith(("bias", "mean")) else 1.0}
    old, new = (tensors[reader].reshape(3, units, -1) for tensors, units in ((before, 6), (after, 10)))
    assert torch.equal(new[:, :6], old)
    assert torch.equal(new[:, 6:8], -new[:, 8:])
    bound = net[-1].weight[0].numel() ** -0.5 if scheme == "pair" else 0.0
    assert bound / 2 < new[:, 6:].abs().max() <= bound or scheme == "zero"
    assert new[:, 6:].any() == (scheme == "pair")


class Constant(nn.Linear):
    def reset_parameters(self):
        nn.init.constant_(self.weight, 1 / self.weight.numel())
        nn.init.constant_(self.bias, 5.0)


def test_new_units_are_drawn_by_the_initialization_of_the_layers_own_class():
    layer, reader = Constant(3, 4), Constant(4, 2)
    for parameter in (*layer.parameters(), *reader.parameters()):
        nn.init.zeros_(parameter)
    widen(layer, reader, 6, scheme="pair")
    assert layer.weight.tolist() == [[0.0] * 3] * 4 + [[pytest.approx(1 / 18)] * 3] * 2  # for the new size
    assert layer.bias.tolist() == [0.0] * 4 + [5.0] * 2
    assert reader.weight.tolist() == [[0.0] * 4 + [pytest.approx(1 / 12), pytest.approx(-1 / 12)]] * 2
    assert reader.bias.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rescaled_weights(scheme, normed):
    """The mean square of the weights that read old units is that of the larger width; the other side is inverse."""
    layer, norm, reader = nn.Linear(5, 6).double(), nn.BatchNorm1d(6).double(), nn.Linear(6, 3).double()
    nn.init.uniform_(norm.running_var)
    nn.init.uniform_(norm.bias)
    scaled, constant = (norm, layer) if normed else (layer, norm)  # a norm would undo any scale of its input
    old = {key: tensor.clone() for key, tensor in [*scaled.named_parameters(), ("read", reader.weight)]}
    torch.manual_seed(1)
    copies = torch.bincount(torch.cat([torch.arange(6), torch.randint(6, (8,))]))
    torch.manual_seed(1)
    before = weights(constant) | {key: tensor.clone() for key, tensor in norm.named_buffers()}
    widen(layer, reader, 14, norm if normed else None, scheme=scheme, rescale=True)
    factor = copies.double().rsqrt() if scheme == "copy" else torch.full((6,), (14 / 6) ** 0.5, dtype=torch.float64)
    read = reader.weight if scheme == "copy" else reader.weight[:, :6]
    assert 14 * read.square().mean().item() == pytest.approx(6 * old["read"].square().mean().item(), rel=1e-12)
    torch.testing.assert_close(scaled.bias[:6], factor * old["bias"], **CLOSE)
    torch.testing.assert_close(scaled.weight[:6].movedim(0, -1), factor * old["weight"].movedim(0, -1), **CLOSE)
    for key, tensor in [*constant.named_parameters(), *norm.named_buffers()]:
        assert torch.equal(tensor[:6] if tensor.ndim else tensor, before[key]), key


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_rescaling_changes_the_output_behind_other_activations_as_documented(activation, scheme):
    net = nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 3)).double()
    x = torch.randn(FLAT, dtype=torch.float64)
    before = net(x)
    widen(net[0], net[2], 24, scheme=scheme, rescale=True)
    assert (net(x) - before).abs().max() > 1e-3


def test_units_of_a_pair_part_at_once_and_units_that_nobody_reads_are_learned():
    for scheme in ("zero", "pair"):
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        widen(net[0], net[2], 10, scheme=scheme)
        net(torch.randn(FLAT, dtype=torch.float64)).square().sum().backward()
        incoming, outgoing = net[0].weight.grad[6:], net[2].weight.grad[:, 6:]
        assert outgoing.abs().min() > 0
        if scheme == "zero":
            assert not incoming.any()
        else:
            assert incoming.abs().min() > 0
            torch.testing.assert_close(incoming[:2], -incoming[2:], **CLOSE)
            torch.testing.assert_close(outgoing[:, :2], outgoing[:, 2:], **CLOSE)


def test_counted_batches_of_a_norm_stay():
    net, x = made("batch norm")
    net(x)
    widen(net[0], net[3], 10, net[1], scheme="pair")
    assert net[1].num_batches_tracked == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETS)
def test_parameters_are_replaced_and_registered(name, scheme):
    net, x = made(name)
    net[0].weight.requires_grad = False
    modules, before = list(net), dict(net.named_parameters())
    widen(net[0], net[-1], 10, norm=norm_of(net), scheme=scheme)
    assert list(net) == modules
    after = dict(net.named_parameters())
    assert list(after) == list(before)  # names and order
    for key, old in before.items():
        changed = key != f"{len(net) - 1}.bias"
        assert (after[key] is not old) == changed
        assert isinstance(after[key], nn.Parameter)
        assert after[key].is_leaf
        assert (after[key].dtype, after[key].requires_grad) == (old.dtype, old.requires_grad)
    fresh = NETS[name][0]()  # what it says of itself, and the shapes of its state, are those of a network born wide
    fresh = nn.Sequential(*(_wide(module, first=module is fresh[0]) for module in fresh))
    assert repr(net) == repr(fresh)
    assert {key: value.shape for key, value in net.state_dict().items()} == {
        key: value.shape for key, value in fresh.state_dict().items()
    }
    net(x).sum().backward()
    assert [key for key, weight in after.items() if weight.grad is None] == ["0.weight"]


def _wide(module, first):
    """The same kind of module made for 10 units in place of 6."""
    same = {"bias": getattr(module, "bias", None) is not None}
    if isinstance(module, nn.Linear):
        return nn.Linear(5, 10, **same) if first else nn.Linear(module.in_features * 10 // 6, 3, **same)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        names = ("kernel_size", "stride", "padding", "padding_mode")
        sizes = (2, 10) if first else (10, 3)
        return type(module)(*sizes, **{name: getattr(module, name) for name in names})
    if "Norm" in type(module).__name__:
        names = ("affine", "track_running_stats")
        return type(module)(10, **{name: getattr(module, name) for name in names})
    return module


def test_by_hand():
    """Two units, four: the copies are drawn, everything else follows."""
    layer, norm, reader = nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)
    for tensor, values in [
        (layer.weight, [[1.0], [2.0]]),
        (layer.bias, [3.0, 4.0]),
        (norm.weight, [5.0, 6.0]),
        (norm.bias, [7.0, 8.0]),
        (norm.running_mean, [9.0, 10.0]),
        (norm.running_var, [11.0, 12.0]),
        (reader.weight, [[24.0, 12.0]]),
        (reader.bias, [13.0]),
    ]:
        tensor.data.copy_(torch.tensor(values))
    torch.manual_seed(1)
    first, second = torch.randint(2, (2,)).tolist()
    torch.manual_seed(1)
    widen(layer, reader, 4, norm)
    source = [0, 1, first, second]
    assert layer.weight.tolist() == [[[1.0], [2.0]][i] for i in source]
    assert layer.bias.tolist() == [[3.0, 4.0][i] for i in source]
    assert norm.weight.tolist() == [[5.0, 6.0][i] for i in source]
    assert norm.bias.tolist() == [[7.0, 8.0][i] for i in source]
    assert norm.running_mean.tolist() == [[9.0, 10.0][i] for i in source]
    assert norm.running_var.tolist() == [[11.0, 12.0][i] for i in source]
    assert reader.weight.tolist() == [[[24.0, 12.0][i] / source.count(i) for i in source]]
    assert reader.bias.tolist() == [13.0]


def test_flattened_maps_are_read_channel_by_channel():
    conv, reader = nn.Conv1d(1, 1, 1), nn.Linear(3, 1)  # one channel of three positions
    reader.weight.data.copy_(torch.tensor([[2.0, 4.0, 6.0]]))
    widen(conv, reader, 2)
    assert reader.weight.tolist() == [[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]]


def test_units_are_drawn_from_the_global_generator():
    def draw(seed):
        torch.manual_seed(0)
        layer, reader = nn.Linear(3, 8), nn.Linear(8, 2)
        torch.manual_seed(seed)
        widen(layer, reader, 200)
        return drawn(layer, 8)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert set(draw(1).tolist()) == set(range(8))  # each is missed with (7 / 8) ** 192 < 1e-11


@pytest.mark.parametrize("rescale", [False, True], ids=["", "rescaled"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_several_layers_read_the_output(scheme, rescale):
    stem, left, right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3), nn.Linear(4 * 9, 2)
    for module in (stem, left, right):
        module.double()
    x = torch.randn(5, 1, 3, 3, dtype=torch.float64)

    def outputs():
        hidden = stem(x).relu()
        return left(hidden), right(hidden.flatten(1))

    before = outputs()
    widen(stem, [left, right], 12, scheme=scheme, rescale=rescale)
    if scheme == "pair":
        assert not torch.equal(left.weight[:2, 4:, 0, 0].abs(), right.weight[:, 4 * 9 :: 9].abs())  # drawn for each
    for one, other in zip(outputs(), before, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("rescale", [False, True], ids=["", "rescaled"])
def test_widening_again_keeps_the_output(rescale):
    net, x = made("batch norm")
    before = net.eval()(x)
    for width, scheme in [(7, "copy"), (9, "pair"), (20, "copy"), (21, "zero"), (40, "copy"), (42, "pair")]:
        widen(net[0], net[3], width, net[1], scheme=scheme, rescale=rescale)
    torch.testing.assert_close(net(x), before, **CLOSE)


HOW = [{"noise": 0.1}, {"scheme": "zero", "rescale": True}, {"scheme": "pair"}, {"rescale": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_stays(dtype, how):
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).to(dtype)
    widen(net[0], net[1], 10, **how)
    assert {weight.dtype for weight in net.parameters()} == {dtype}


@pytest.mark.parametrize("how", HOW, ids=str)
def test_device_stays(how):
    net = nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(12, 3)).to("meta")
    widen(net[0], net[3], 10, net[1], **how)
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}
    assert identity_like(net[0], noise=0.1).weight.device.type == "meta"


def test_without_noise_copies_stay_copies():
    # not 0: with half of all seeds, rounding in the products of matrices tells the two columns apart
    assert _distance_of_copies_after_training(0.0) < 1e-13


def test_noise_breaks_the_symmetry():
    assert _distance_of_copies_after_training(0.01) > 1e-3  # rounding alone would give 1e-14


def _distance_of_copies_after_training(noise):
    """By how much the outgoing weights of copies, which have no noise, come to differ."""
    net = nn.Sequential(nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    widen(net[0], net[2], 2, noise=noise)
    x = torch.randn(64, 5, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (net(x) - x[:, :1].sin() * x[:, 1:2]).square().mean().backward()
        optimizer.step()
    one, other = net[2].weight[0].tolist()
    return abs(one - other)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_noise_is_relative_to_the_weights_of_the_unit(scale):
    layer, reader = nn.Linear(10_000, 2).double(), nn.Linear(2, 1).double()
    layer.weight.data *= scale * torch.tensor([[1.0], [7.0]])
    before = layer.weight.detach().clone()
    widen(layer, reader, 12, noise=0.1)
    ratios = [
        min(((row - old).square().mean() / old.square().mean()).sqrt().item() for old in before)
        for row in layer.weight[2:]
    ]
    assert ratios == pytest.approx([0.1] * 10, rel=0.05)  # 7 standard errors of a deviation estimated from 10,000
    assert torch.equal(layer.weight[:2], before)
    assert set(layer.bias.tolist()) == set(layer.bias[:2].tolist())


class Masked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mask", torch.ones_like(self.weight))


def tied():
    layer, reader = nn.Linear(6, 6), nn.Linear(6, 6)
    reader.weight = layer.weight
    return layer, reader


REFUSED = {
    "width equal": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 6), ValueError, "larger than the 6 units .* got 6"),
    "width smaller": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 2), ValueError, "larger than the 6 units .* got 2"),
    "width no int": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8.0), ValueError, r"a whole number, got 8\.0"),
    "nobody reads": (lambda: (nn.Linear(5, 6), [], 8), ValueError, "following is empty"),
    "wrong size": (lambda: (nn.Linear(5, 6), nn.Linear(7, 3), 8), ValueError, r"\[0\] has 7 inputs, expected the 6"),
    "second of wrong size": (
        lambda: (nn.Linear(5, 6), [nn.Linear(6, 3), nn.Linear(12, 3)], 8),
        ValueError,
        r"following\[1\] has 12 inputs, expected the 6 units",
    ),
    "maps of wrong size": (
        lambda: (nn.Conv2d(2, 6, 3), nn.Linear(15, 3), 8),
        ValueError,
        "has 15 inputs, expected a multiple of the 6 units",
    ),
    "channels of wrong size": (
        lambda: (nn.Conv2d(2, 6, 3), nn.Conv2d(12, 3, 3), 8),
        ValueError,
        "has 12 inputs, expected the 6 units",
    ),
    "lazy": (lambda: (nn.Conv2d(2, 6, 3), nn.LazyLinear(3), 8), ValueError, "has 0 inputs"),
    "conv behind linear": (lambda: (nn.Linear(5, 6), nn.Conv1d(6, 3, 1), 8), TypeError, "Conv1d behind a Linear"),
    "groups": (lambda: (nn.Conv2d(2, 6, 3, groups=2), nn.Linear(6, 3), 8), ValueError, "layer is .* groups=2"),
    "depthwise": (
        lambda: (nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=6), 8),
        ValueError,
        r"following\[0\] is a convolution with groups=6",
    ),
    "transposed": (lambda: (nn.ConvTranspose2d(2, 6, 3), nn.Linear(6, 3), 8), TypeError, "got ConvTranspose2d"),
    "container": (lambda: (nn.Linear(5, 6), nn.Sequential(nn.Linear(6, 3)), 8), TypeError, "got Sequential: give"),
    "layer norm": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, nn.LayerNorm(6)), TypeError, "average over the units"),
    "group norm": (
        lambda: (nn.Conv1d(5, 6, 1), nn.Conv1d(6, 3, 1), 8, nn.GroupNorm(2, 6)),
        TypeError,
        "got GroupNorm: .* another average",
    ),
    "norm of wrong size": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, nn.BatchNorm1d(5)),
        ValueError,
        "norm has 5 features, expected the 6 units",
    ),
    "mask": (lambda: (Masked(5, 6), nn.Linear(6, 3), 8), TypeError, r"Masked with \['mask'\]"),
    "pruned": (
        lambda: (nn.Linear(5, 6), prune.l1_unstructured(nn.Linear(6, 3), "weight", amount=2), 8),
        TypeError,
        r"following\[0\] is a Linear with \['weight_mask', 'weight_orig'\]",
    ),
    "parametrized": (
        lambda: (parametrizations.weight_norm(nn.Linear(5, 6)), nn.Linear(6, 3), 8),
        TypeError,
        "remove pruning and parametrizations",
    ),
    "tied": (lambda: (*tied(), 8), ValueError, "share a parameter"),
    "itself": (lambda: (*[nn.Linear(6, 6)] * 2, 8), ValueError, "give each module once"),
    "named twice": (lambda: (nn.Linear(5, 6), [nn.Linear(6, 3)] * 2, 8), ValueError, "give each module once"),
    "noise negative": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, None, -0.1), ValueError, r"got -0\.1"),
    "noise nan": (lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, None, float("nan")), ValueError, "got nan"),
    "unknown scheme": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, None, 0.0, "split"),
        ValueError,
        "scheme must be 'copy', 'zero' or 'pair', got 'split'",
    ),
    "odd pair": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 9, None, 0.0, "pair"),
        ValueError,
        "in pairs, and this width would add 3: give a width that adds an even number",
    ),
    "noise on zero": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, None, 0.1, "zero"),
        ValueError,
        r"noise=0\.1 parts copies .* scheme='zero' makes none",
    ),
    "noise on pair": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, None, 0.1, "pair"),
        ValueError,
        r"noise=0\.1 parts copies .* scheme='pair' makes none",
    ),
    "rescale without affine": (
        lambda: (nn.Linear(5, 6), nn.Linear(6, 3), 8, nn.BatchNorm1d(6, affine=False), 0.0, "zero", True),
        ValueError,
        r"this BatchNorm1d has none \(affine=False\): give a norm with affine=True",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_changes(case):
    make, error, message = REFUSED[case]
    arguments = make()
    following = arguments[1]
    modules = [arguments[0], *(following if isinstance(following, list) else [following]), *arguments[3:4]]
    modules = [module for module in modules if module is not None]
    lazy = case == "lazy"  # has no values to compare
    before = [(repr(module), dict(module.named_parameters()), {} if lazy else weights(module)) for module in modules]
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        widen(*arguments)
    for module, (text, parameters, values) in zip(modules, before, strict=True):
        assert repr(module) == text
        assert all(parameters[key] is weight for key, weight in module.named_parameters())
        assert_same({} if lazy else weights(module), values)
    assert torch.equal(torch.get_rng_state(), state)


# a layer, and what the new one says of itself
IDENTITIES = {
    "linear": (lambda: nn.Linear(5, 6), "Linear(in_features=6, out_features=6, bias=True)"),
    "no bias": (lambda: nn.Linear(5, 6, bias=False), "Linear(in_features=6, out_features=6, bias=False)"),
    "conv1d": (lambda: nn.Conv1d(2, 6, 5), "Conv1d(6, 6, kernel_size=(5,), stride=(1,), padding=same)"),
    "conv2d": (
        lambda: nn.Conv2d(2, 6, (3, 1), stride=2, dilation=2, groups=2, padding_mode="circular"),
        "Conv2d(6, 6, kernel_size=(3, 1), stride=(1, 1), padding=same, padding_mode=circular)",
    ),
    "even kernel": (lambda: nn.Conv2d(2, 6, (2, 4)), "Conv2d(6, 6, kernel_size=(3, 5), stride=(1, 1), padding=same)"),
    "conv3d": (
        lambda: nn.Conv3d(2, 6, 3, bias=False),
        "Conv3d(6, 6, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=same, bias=False)",
    ),
}
INPUTS = {"linear": FLAT, "no bias": FLAT, "conv1d": SIGNAL, "conv2d": IMAGE, "even kernel": IMAGE, "conv3d": VOLUME}


@pytest.mark.parametrize("case", IDENTITIES)
def test_identity_changes_nothing_behind_a_relu(case):
    make, text = IDENTITIES[case]
    layer = make().double()
    identity = identity_like(layer)
    assert repr(identity) == text
    assert identity.weight.dtype == torch.float64
    hidden = layer(torch.randn(INPUTS[case], dtype=torch.float64)).relu()
    after = nn.Sequential(identity, nn.ReLU())(hidden)
    assert torch.equal(after, hidden)  # 1 * x plus zeros has no rounding
    after.sum().backward()
    assert all(weight.grad is not None for weight in identity.parameters())


@pytest.mark.parametrize("case", IDENTITIES)
def test_identity_with_noise(case):
    torch.manual_seed(0)
    layer = IDENTITIES[case][0]().double()
    exact, noisy = identity_like(layer), identity_like(layer, noise=0.1)
    distance = (noisy.weight - exact.weight).norm() / exact.weight.norm()
    # a relative deviation of 0.1 in each weight is one of the whole, up to 4 standard errors over 36 weights or more
    assert distance.item() == pytest.approx(0.1, rel=0.5)
    assert noisy.bias is None or not noisy.bias.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: identity_like(nn.ReLU()), TypeError, "got ReLU: give the layer itself"),
        (lambda: identity_like(nn.ConvTranspose1d(2, 6, 3)), TypeError, "got ConvTranspose1d"),
        (lambda: identity_like(nn.Linear(2, 6), noise=-1.0), ValueError, r"noise must be .* got -1\.0"),
    ],
)
def test_identity_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_identity_can_be_widened():
    layer = nn.Linear(5, 6).double()
    identity, head = identity_like(layer), nn.Linear(6, 3).double()
    net = nn.Sequential(layer, nn.ReLU(), identity, nn.ReLU(), head)
    x = torch.randn(FLAT, dtype=torch.float64)
    before = net(x)
    widen(layer, identity, 9)
    widen(identity, head, 8)
    torch.testing.assert_close(net(x), before, **CLOSE)
