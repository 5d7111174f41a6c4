import pytest
import torch
from torch import nn

from helpers import Net, Plain, Toggling, fit
from structurenet_pl import (
    AgeDecay,
    Clock,
    Component,
    DepthDecay,
    GrowEvery,
    Moment,
    ProgressiveFreeze,
    RoleLR,
    explain,
)

SPINE = (Component("a", depth=0), Component("p", "patch", 1), Component("b", depth=1), Component("c", "x", 4))


@pytest.mark.parametrize(("slowest", "exponents"), [("output", [0, 1, 1, 2]), ("input", [2, 1, 1, 0])])
def test_depths_are_counted_not_measured(slowest, exponents):
    decay = DepthDecay(0.5, slowest)
    factors = [decay.factor(component, Moment(components=SPINE)) for component in SPINE]
    assert factors == [0.5 ** (exponent / 3) for exponent in exponents]


def test_depth_among_those_it_acts_on():
    decay = DepthDecay(0.5, where=["a", "x"])
    assert [decay.applied(component, Moment(components=SPINE)) for component in SPINE] == [
        0.5 ** (1 / 2),
        1.0,
        1.0,
        1.0,
    ]


@pytest.mark.parametrize(
    ("layers", "slowest", "exponents"),
    [
        ("*", "input", [2, 1, 1, 0]),
        ("*", "output", [0, 1, 1, 2]),
        ("b", "input", [1, 0, 0, 0]),
        ("b", "output", [0, 0, 0, 1]),
        (["patch", "x"], "input", [2, 1, 1, 0]),  # roles; the patch makes its depth a layer
        ("c", "input", [1, 1, 1, 0]),
        ("c", "output", [0, 0, 0, 0]),
    ],
)
def test_decay_from_layer_to_layer(layers, slowest, exponents):
    decay = DepthDecay(0.5, slowest, layers=layers)
    factors = [decay.factor(component, Moment(components=SPINE)) for component in SPINE]
    assert factors == [0.5**exponent for exponent in exponents]


def test_layers_are_counted_among_the_components_that_it_acts_on():
    decay = DepthDecay(0.5, where=["a", "b"], layers="*")
    now = Moment(components=SPINE)
    assert [decay.applied(component, now) for component in SPINE] == [0.5, 1.0, 1.0, 1.0]


def test_layers_may_be_born_later():
    trainer = fit(Net(), [GrowEvery("add_neck", every=1), DepthDecay(0.5, layers="necks.*")], epochs=3)
    lrs = {entry.component.name: entry.factors["DepthDecay"] for entry in explain(trainer)}
    assert [lrs[name] for name in ("body.0", "necks.0", "necks.2", "head")] == [0.125, 0.25, 1.0, 1.0]


def test_layers_that_are_not_found_are_reported():
    with pytest.warns(UserWarning, match=r"DepthDecay looks for 'bloks.\*' and finds nothing: .*correct it"):
        fit(Plain(), [DepthDecay(0.5, layers="bloks.*")], epochs=1)


@pytest.mark.parametrize(
    ("arguments", "clock", "expected"),
    [
        ({}, Clock(generation=2), 0.1**2),
        ({"per": 20, "unit": "epoch"}, Clock(epoch=59), 0.1**2),
        ({"per": 10, "unit": "step", "gamma": 0.5}, Clock(step=35), 0.125),
        ({"floor": 0.05}, Clock(generation=2), 0.05),
        ({"gamma": 0}, Clock(generation=0), 1.0),
        ({"gamma": 0}, Clock(generation=1), 0.0),
    ],
)
def test_age(arguments, clock, expected):
    assert AgeDecay(**arguments).factor(Component("stem"), Moment(clock)) == expected


def test_a_role_that_is_not_listed_has_factor_1():
    assert RoleLR({"patch": 0.5}).factor(Component("stem"), Moment()) == 1.0
    assert RoleLR({"patch": 0.5}).factor(Component("stem", "scaffold"), Moment()) == 1.0


class TwoOptimizers(Toggling):
    """The body in one optimizer, the rest in another, as generator and discriminator are."""

    def configure_optimizers(self):
        body = set(self.body.parameters())
        rest = [tensor for tensor in self.parameters() if tensor not in body]
        return [torch.optim.SGD(tensors, lr=1.0) for tensors in (list(body), rest)]


class Adversaries(TwoOptimizers, Plain):
    pass


class GrowingAdversaries(TwoOptimizers, Net):
    pass


def lrs(trainer):
    return {entry.component.name: entry.lr for entry in explain(trainer)}


def test_depth_is_ranked_among_the_components_of_one_optimizer():
    trainer = fit(Adversaries(), [DepthDecay(0.5)], epochs=1)
    assert lrs(trainer) == {"body.0": 0.5 ** (2 / 3), "body.3": 0.5 ** (1 / 3), "body.4": 1.0, "head": 1.0}


def test_newborns_take_their_rank_in_their_own_optimizer():
    net = GrowingAdversaries()
    net.add_patch(at=1)
    grow = GrowEvery("add_patch", every=1, limit=1, arguments={"at": 0})  # joins the optimizer of its neighbour
    trainer = fit(net, [DepthDecay(0.5), grow], epochs=2)
    of_body = {"body.0": 0.5 ** (2 / 3), "body.3": 0.5 ** (1 / 3), "patches.1": 0.5 ** (2 / 3), "body.4": 1.0}
    assert lrs(trainer) == of_body | {"patches.0": 0.5**0.5, "head": 1.0}


def test_early_and_late_components_of_each_optimizer():
    phases = [("all", 0, 0.25, 1.0, -1)]
    trainer = fit(Adversaries(), [ProgressiveFreeze(phases)], epochs=1)
    assert lrs(trainer) == {"body.0": 0.25, "body.3": 0.25, "body.4": 1.0, "head": 1.0}


def test_components_of_one_depth_give_a_warning_at_fit_start():
    with pytest.warns(UserWarning, match=r"DepthDecay depends on depth, but .* have the same: head") as caught:
        fit(Plain(), [DepthDecay(where="head")], epochs=1)
    assert sum("DepthDecay" in str(warning.message) for warning in caught) == 1


class Small(Toggling):
    """One component in each optimizer, as the networks of a small GAN are."""

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=1.0) for part in (self.body, self.head)]


class SmallAdversaries(Small, Plain):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)


class SmallGrowing(Small, Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)


def test_one_depth_in_each_optimizer_gives_a_warning_at_fit_start():
    with pytest.warns(UserWarning, match=r"it acts on in one optimizer have the same: body, head") as caught:
        fit(SmallAdversaries(), [DepthDecay()], epochs=1)
    assert sum("DepthDecay" in str(warning.message) for warning in caught) == 1


def test_one_depth_in_each_optimizer_is_not_a_matter_of_time(caplog):
    with caplog.at_level("INFO"):
        fit(SmallGrowing(), [DepthDecay()], epochs=1)
    assert "DepthDecay has changed no learning rate in this run: nothing has grown" in caplog.text
