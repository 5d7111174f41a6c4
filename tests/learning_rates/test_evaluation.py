"""A factor is evaluated once for all components that are alike to it, and nobody can tell that from the values."""

import copy
import pickle
from dataclasses import asdict, astuple, replace

import numpy as np
import pytest

from helpers import FACTORS, example_factors
from structurenet_pl import Clock, Component, GrowthEvent, GrowthResponder, LRFactor, Warmup
from structurenet_pl.learning_rates.evaluation import Evaluation
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.moment import Moment, Norms
from structurenet_pl.structure.events import check_unit

LOG = (
    GrowthEvent("patch", {}, Clock(6, 1, 1), born=("patches.0",), adjacent=("blocks.1", "blocks.2"), role="patch"),
    GrowthEvent("wider", {}, Clock(9, 2, 2), widened=("blocks.3",), adjacent=("blocks.2",)),
    GrowthEvent("necks", {}, Clock(9, 2, 3), born=("necks.0", "necks.1"), adjacent=("head",), role="neck"),
)
SPINE = (
    *(Component(f"blocks.{number}", "scaffold", number // 2) for number in range(5)),
    Component("patches.0", "patch", 1, LOG[0].clock),
    *(Component(f"necks.{number}", "neck", 3, LOG[2].clock) for number in range(2)),
    Component("head", None, 4),
)
CLOCKS = [Clock(step, step // 5, sum(event.clock.step <= step for event in LOG)) for step in range(9, 40, 3)]


def norms(component, skip_1d):
    return Norms(len(component.name), 1.0 + component.depth, 0.0)


def density(component):
    return None if component.role is None else 1 / len(component.name)


def moment(clock):
    return Moment(clock, LOG, SPINE, norms, density)


def by(function):
    """A user's factor."""
    return type("Users", (LRFactor,), {"factor": lambda self, component, now: function(component, now)})()


def class_pattern(component, now):
    match component:
        case Component(name="head"):
            return 0.25
        case Component(role="patch", depth=depth):
            return 1 / (1 + depth)
    return 1.0


USERS = {
    "the same for all": lambda component, now: 1 / (1 + now.clock.step),
    "name": lambda component, now: 0.5 if component.name.endswith(".1") else 1.0,
    "name from some epoch on": lambda component, now: (
        0.5 if now.clock.epoch > 3 and component.name == "blocks.1" else 1.0
    ),
    "role, and depth for some roles": lambda component, now: (
        1 / (1 + component.depth) if component.role == "scaffold" else 0.9
    ),
    "birth": lambda component, now: 1 / (1 + component.born.step),
    "age": lambda component, now: 1 / (1 + now.age(component).step),
    "identity": lambda component, now: 0.5 if component is now.components[2] else 1.0,
    "equality": lambda component, now: 0.5 if component == SPINE[3] else 1.0,
    "equality the other way round": lambda component, now: 0.5 if SPINE[3] == component else 1.0,
    "place": lambda component, now: 1 / (1 + now.components.index(component)),
    "a key": lambda component, now: {SPINE[1]: 0.5}.get(component, 1.0),
    "all of them": lambda component, now: 1 / sum(other.depth <= component.depth for other in now.components),
    "as a dict": lambda component, now: 0.5 if asdict(component)["name"] == "head" else 1.0,
    "as a tuple": lambda component, now: 0.5 if astuple(component)[0] == "head" else 1.0,
    "its attributes": lambda component, now: 0.5 if vars(component)["name"] == "head" else 1.0,
    "as text": lambda component, now: 0.5 if "blocks.2" in repr(component) else 1.0,
    "another one": lambda component, now: 0.5 if replace(component, depth=7).name == "head" else 1.0,
    "a copy": lambda component, now: 0.5 if copy.copy(component).name == "head" else 1.0,
    "a deep copy": lambda component, now: 0.5 if copy.deepcopy(component).name == "head" else 1.0,
    "pickled": lambda component, now: 0.5 if pickle.loads(pickle.dumps(component)).name == "head" else 1.0,
    "a class pattern": class_pattern,
    "nearness": lambda component, now: 0.5 if "adjacent" in now.nearness(component) else 1.0,
    "the last event": lambda component, now: 0.5 if component.name in now.log[-1].adjacent else 1.0,
    "rank": lambda component, now: (1 + now.rank(component)[0]) / now.rank(component)[1],
    "density": lambda component, now: now.density(component) or 1.0,
    "norms": lambda component, now: now.norms(component, True).weight,
    "computed once": lambda component, now: (
        now.once("depths", lambda now: max(one.depth for one in now.components)) + 1.0
    ),
    "the moment with another clock": lambda component, now: (
        1 / (1 + replace(now, clock=Clock(now.clock.step + 1)).age(component).step)
    ),
}


@pytest.mark.parametrize(
    "factor",
    [*example_factors(), *map(by, USERS.values())],
    ids=[*(kind.__name__ for kind in FACTORS), *USERS],
)
def test_values_are_those_of_every_component_on_its_own(factor):
    check_unit(factor.unit)
    acting = [component for component in SPINE if factor.acts_on(component)]
    for turned in (False, True):
        evaluation = Evaluation(factor, acting, LOG)
        clocks = CLOCKS[::-1] if turned else CLOCKS
        for clock in clocks:
            expected = [factor.checked(component, moment(clock)) for component in acting]
            np.testing.assert_array_equal(evaluation.values(moment(clock)), expected)


class Counted(Warmup):
    """Counts how often it is evaluated."""

    times = 0

    def factor(self, component, now):
        self.times += 1
        return super().factor(component, now)


def test_components_that_are_alike_share_an_evaluation():
    components = tuple(Component(f"blocks.{number}", "scaffold", number) for number in range(1000))
    factor = Counted(5, newborn_only=False)
    evaluation = Evaluation(factor, components, ())
    evaluation.values(Moment(Clock(1, 1), (), components))
    learned, factor.times = factor.times, 0
    assert learned <= 4  # what it reads is found out one by one
    assert (evaluation.values(Moment(Clock(2, 2), (), components)) == 3 / 5).all()
    assert factor.times == 1


def test_growth_costs_no_more_with_more_components():
    """A hundred events over a hundred components."""
    log = tuple(
        GrowthEvent("add", {}, Clock(step, step, step), born=(f"blocks.{step}",), adjacent=(f"blocks.{step - 1}",))
        for step in range(1, 101)
    )
    components = (Component("blocks.0"), *(Component(event.born[0], depth=1, born=event.clock) for event in log))
    times = []

    class Responder(GrowthResponder):
        def factor(self, component, now):
            times.append(component)
            return super().factor(component, now)

    factor = Responder(recovery=3)
    evaluation = Evaluation(factor, components, log)
    for step in (100, 101, 102):
        times.clear()
        now = Moment(Clock(step, step, 100), log, components)
        values = evaluation.values(now)
        np.testing.assert_array_equal(values, [factor.checked(component, now) for component in components])
    assert len(times) - len(components) <= len(components)


def test_a_factor_at_rest_is_not_evaluated():
    factor, components = Counted(5, newborn_only=False), SPINE
    factors = Factors([factor])
    factors.set_components(components, LOG)
    factors.evaluate_at(Clock(40, 1, 3), lambda clock: Moment(clock, LOG, components))
    factor.times, version = 0, factors.version
    for step in range(41, 45):
        factors.evaluate_at(Clock(step, 1, 3), lambda clock: Moment(clock, LOG, components))
    assert (factor.times, factors.version) == (0, version)


def test_labels_are_unique_whatever_the_classes_are_called():
    class A(LRFactor):
        def factor(self, component, now):
            return 1.0

    A_1 = type("A_1", (A,), {})
    assert list(Factors([A(), A(), Warmup()])) == ["A_1", "A_2", "Warmup"]
    assert list(Factors([A(), A(), A_1(), A()])) == ["A_2", "A_3", "A_1", "A_4"]
