import pytest
import torch
from pytorch_warmup import LinearWarmup

from structurenet_pl import Clock, Component, Moment, Warmup

PATCH = Component("patch", born=Clock(step=30, epoch=10, generation=2))


@pytest.mark.parametrize(
    ("arguments", "clock", "expected"),
    [
        ({}, Clock(30, 10, 2), 0.2),
        ({}, Clock(39, 13, 2), 0.8),
        ({}, Clock(42, 14, 2), 1.0),
        ({}, Clock(900, 300, 9), 1.0),
        ({"length": 10, "unit": "step"}, Clock(34, 11, 2), 0.5),
        ({"length": 4, "unit": "generation"}, Clock(90, 30, 4), 0.75),
        ({"length": 4, "start": 0.2}, Clock(33, 11, 2), 0.6),
        ({}, Clock(20, 9, 2), 0.2),  # in the rest of the epoch before its first
    ],
)
def test_closed_form(arguments, clock, expected):
    assert Warmup(**arguments).factor(PATCH, Moment(clock)) == pytest.approx(expected, rel=1e-15)  # one rounding


def test_founders_are_left_alone_unless_asked_for():
    stem = Component("stem")
    assert Warmup().factor(stem, Moment(Clock())) == 1.0
    assert Warmup(newborn_only=False).factor(stem, Moment(Clock())) == 0.2


@pytest.mark.parametrize("length", [1, 0.5])
def test_a_warm_up_without_effect_is_told_at_once(length):
    with pytest.warns(UserWarning, match=rf"Warmup\(length={length}\) does nothing.*Give it a length > 1"):
        warmup = Warmup(length)
    assert warmup.factor(PATCH, Moment(PATCH.born)) == 1.0


@pytest.mark.parametrize("length", [2, 3, 10])
def test_equals_pytorch_warmup(length):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = LinearWarmup(optimizer, length)
    ours = Warmup(length, unit="step", newborn_only=False)
    for step in range(2 * length):
        assert ours.factor(Component("stem"), Moment(Clock(step=step))) == optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = 1.0
        with reference.dampening():
            pass
