import pytest

from structurenet_pl import Clock, Component, Moment, SedimentaryDecay


@pytest.mark.parametrize(
    ("age", "stratum", "lr"),
    [
        (0, "active", 1e-3),
        (19, "active", 1e-3),
        (20, "sediment", 1e-4),
        (99, "sediment", 1e-4),
        (100, "geological", 1e-5),
    ],
)
def test_the_seed_at_a_base_lr_of_1e_3(age, stratum, lr):
    decay, late = SedimentaryDecay(), Component("late", born=Clock(epoch=7, generation=1))
    now = Moment(Clock(epoch=7 + age))
    assert decay.stratum(late, now) == stratum
    assert 1e-3 * decay.factor(late, now) == pytest.approx(lr, rel=1e-15)  # one rounding


def test_patches_have_a_rate_of_their_own():
    decay, patch = SedimentaryDecay(), Component("patches.0", role="patch")
    assert {decay.factor(patch, Moment(Clock(epoch=age))) for age in (0, 50, 500)} == {0.5}
    assert decay.stratum(patch, Moment()) == "patch"


@pytest.mark.parametrize(("unit", "clock"), [("step", Clock(step=6)), ("generation", Clock(generation=6))])
def test_other_units(unit, clock):
    decay = SedimentaryDecay([["young", 0, 1.0], ["old", 5, 0.25]], unit=unit)
    assert decay.factor(Component("stem"), Moment(clock)) == 0.25
    assert decay.factor(Component("stem"), Moment(Clock(epoch=6))) == 1.0
