import pytest

from helpers import Net
from structurenet_pl import Clock, Component, GrowthEvent, GrowthResponder, Moment

LOG = (
    GrowthEvent("add", {}, Clock(10, 1, 1), born=("patch",), adjacent=("stem", "body")),
    GrowthEvent("add", {}, Clock(40, 4, 2), born=("neck",), adjacent=("body", "head")),
)
STEM, BODY, HEAD = Component("stem", "scaffold"), Component("body", "scaffold", 1), Component("head", "head", 3)
PATCH = Component("patch", "patch", 0, Clock(10, 1, 1))
NECK = Component("neck", "new", 2, Clock(40, 4, 2))


@pytest.mark.parametrize(
    ("component", "before", "after_one", "after_two"),
    [(STEM, 1.0, 0.7, 0.35), (BODY, 1.0, 0.7, 0.49), (HEAD, 1.0, 0.5, 0.35), (PATCH, None, 0.9, 0.45)],
)
def test_product_of_dips_by_distance(component, before, after_one, after_two):
    responder = GrowthResponder()
    for generation, expected in enumerate((before, after_one, after_two)):
        if expected is not None:
            now = Moment(Clock(100, 10, generation), LOG)
            assert responder.factor(component, now) == pytest.approx(expected, rel=1e-15)  # one rounding


def test_newborn_answers_to_its_own_event_and_later_ones_only():
    assert GrowthResponder().factor(NECK, Moment(Clock(100, 10, 2), LOG)) == 0.9


@pytest.mark.parametrize(("component", "expected"), [(STEM, 0.25), (NECK, 1.0), (HEAD, 1.0)])
def test_by_role_as_in_strategy_6(component, expected):
    responder = GrowthResponder(roles={"scaffold": 0.5, "new": 1.0})
    assert responder.factor(component, Moment(Clock(100, 10, 2), LOG)) == expected


@pytest.mark.parametrize(
    ("unit", "clock", "expected"),
    [
        ("epoch", Clock(10, 1, 1), 0.5),
        ("epoch", Clock(30, 3, 1), 0.75),
        ("epoch", Clock(50, 5, 1), 0.875),
        ("step", Clock(12, 1, 1), 0.75),
        ("generation", Clock(99, 9, 1), 0.5),
    ],
)
def test_a_dip_fades_by_half_in_each_half_life(unit, clock, expected):
    assert GrowthResponder(recovery=2, unit=unit).factor(HEAD, Moment(clock, LOG[:1])) == expected


def test_a_dip_does_not_deepen_before_the_epoch_that_its_growth_counts_to():
    after_last_batch = GrowthEvent("add", {}, Clock(10, 2, 1), adjacent=("head",))
    now = Moment(Clock(10, 1, 1), (after_last_batch,))
    assert GrowthResponder(recovery=1).factor(HEAD, now) == pytest.approx(0.7, rel=1e-15)


def test_floor_bounds_the_product():
    assert GrowthResponder(floor=0.4).factor(HEAD, Moment(Clock(100, 10, 2), LOG)) == 0.4


def test_insertions_do_not_rewrite_the_past():
    net = Net()
    net.add_patch(at=2)
    first = {
        name: GrowthResponder().factor(c, Moment(Clock(generation=1), net.growth_log))
        for name, c in net.components.items()
    }
    assert first == {"body.0": 0.5, "body.3": 0.7, "body.4": 0.7, "patches.0": 0.9, "head": 0.7}
    net.add_neck()  # now head is two away from the patch
    assert net.components["head"].depth - net.components["patches.0"].depth == 2
    again = {
        name: GrowthResponder().factor(net.components[name], Moment(Clock(generation=1), net.growth_log))
        for name in first
    }
    assert again == first
