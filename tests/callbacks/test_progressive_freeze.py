import pytest
import torch

from helpers import Plain, fit, weights
from structurenet_pl import Clock, Component, Moment, ProgressiveFreeze

LAYERS = tuple(Component(f"layers.{depth}", depth=depth) for depth in range(5))


def by_layer(freeze, clock, layers=LAYERS):
    return [freeze.factor(layer, Moment(clock, components=layers)) for layer in layers]


@pytest.mark.parametrize(
    ("epoch", "lrs"),
    [
        (0, [1e-3] * 5),
        (9, [1e-3] * 5),
        (10, [1e-5, 1e-5, 1e-4, 1e-4, 1e-4]),
        (29, [1e-5, 1e-5, 1e-4, 1e-4, 1e-4]),
        (30, [0, 0, 0, 0, 1e-4]),
    ],
)
def test_the_seed_at_a_base_lr_of_1e_3(epoch, lrs):
    factors = by_layer(ProgressiveFreeze(), Clock(epoch=epoch))
    assert [1e-3 * factor for factor in factors] == pytest.approx(lrs, rel=1e-15)  # one rounding


@pytest.mark.parametrize(
    ("split", "early"), [(0, 0), (1, 1), (-1, 4), (-5, 0), (0.5, 3), (0.4, 2), (0.2, 1), (9, 5), (-9, 0)]
)
def test_split_counts_from_both_ends_or_is_a_share(split, early):
    freeze = ProgressiveFreeze([("only", 0, 0.0, 1.0, split)])
    assert by_layer(freeze, Clock()) == [0.0] * early + [1.0] * (5 - early)


def test_patches_count_with_what_they_stand_beside():
    components = (*LAYERS[:2], Component("patch", depth=1), *LAYERS[2:])
    freeze = ProgressiveFreeze([("only", 0, 0.0, 1.0, 2)])
    assert by_layer(freeze, Clock(), components) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("unit", "clock"), [("step", Clock(step=3)), ("generation", Clock(generation=3))])
def test_other_units(unit, clock):
    freeze = ProgressiveFreeze([("all", 0, 1.0, 1.0, 0), ("none", 3, 0.0, 0.0, 0)], unit=unit)
    assert by_layer(freeze, clock) == [0.0] * 5


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_frozen_parameters_stand_still(optimizer):
    torch.manual_seed(0)
    module = Plain(optimizer=lambda params: optimizer(params, lr=0.1, weight_decay=0.1))
    before = weights(module)
    fit(module, [ProgressiveFreeze([("final", 0, 0.0, 1.0, -1)])], epochs=2)
    moved = {
        name.partition(".")[0] for name, tensor in weights(module).items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"head"}
