"""Each mistake in a program gets a message with what was given, what was expected, and a way out.

Those in arguments of callbacks stand in ``tests/callbacks/test_arguments.py``, warnings in ``test_checks.py``.
"""

import re

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from helpers import Net, Plain, fit
from structurenet_pl import (
    GrowOnPlateau,
    GrowthMixin,
    LRFactor,
    explain,
    growth,
    plot_strata,
    widen,
)


def add(self, at: int):
    self.neck = nn.Linear(8, 8)


def add_any(self, *sizes):
    """Unreachable."""


def with_method(method, base=Net):
    return type("Mistaken", (base,), {"grow": growth()(method)})()


def with_list(self):
    self.layers = [nn.Linear(2, 2)]


def by_hand(self):
    self.body[0].weight = nn.Parameter(torch.ones(2, 2, 2))


class Constant(LRFactor):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def factor(self, component, now):
        return self.value


class OwnUnit(Constant):
    unit = "epochs"


class Greedy(LRFactor):
    def factor(self, component, now):
        return now.norms(component, True).weight


class WithoutSuper(Net):
    def configure_callbacks(self):
        return []


def trainer():
    return Trainer(logger=False, enable_checkpointing=False)


def plateau(growth, **arguments):
    return GrowOnPlateau(growth, "loss", **arguments)


PROGRAMS = [
    # a class that is to grow
    (lambda: growth(add), TypeError, "write @growth() with parentheses, or @growth(role=...)"),
    (lambda: growth(depth="att")(add), TypeError, "@growth(depth='att') names no argument of 'add', which has ['at']"),
    (lambda: growth(adjacent="by")(add), TypeError, "@growth(adjacent='by') names no argument of 'add', which has"),
    (lambda: growth()(add_any), TypeError, "growth method 'add_any' must name its arguments, got '*sizes': declare"),
    (lambda: type("A", (LightningModule, GrowthMixin), {}), TypeError, "write class A(GrowthMixin, LightningModule)."),
    (lambda: fit(WithoutSuper()), TypeError, "return [*super().configure_callbacks(), ...]"),
    # a call of a growth method
    (lambda: with_method(add, Plain).grow(1), TypeError, "but the class cannot grow: derive it from GrowableModule"),
    (lambda: Net().add_patch(), TypeError, "'add_patch' with arguments (self, at: int, inner: int = 4): missing"),
    (lambda: Net().add_patch(at=1, wide=3), TypeError, "got an unexpected keyword argument 'wide'"),
    (lambda: Net().add_patch(torch.ones(1)), TypeError, "add_patch(at=...) got tensor([1.]) of type Tensor, but"),
    (lambda: Net().add_patch(float("nan")), ValueError, "add_patch(at=...) got nan, which is equal to nothing"),
    (lambda: Net().add_patch(99), ValueError, "depth 99 is outside a network of 4 depths"),
    (lambda: Net().add_patch("body.7"), ValueError, "expected a number or one of the components ['body.0', 'body.3'"),
    (lambda: with_method(with_list).grow(), ValueError, "'grow' changed no parameters, expected a change: register"),
    (lambda: with_method(by_hand).grow(), ValueError, "body.0.weight"),
    # triggers
    (lambda: fit(Net(), [plateau("widen")]), AttributeError, "no growth method 'widen', expected one of ['add_neck', "),
    (
        lambda: fit(Plain(), [plateau("widen")]),
        AttributeError,
        "derive it from GrowableModule, or put GrowthMixin first",
    ),
    (lambda: fit(Net(), [plateau("add_patch")]), TypeError, "missing a required argument: 'at'"),
    # factors
    (lambda: fit(Plain(), [Constant(-1.0)]), ValueError, "Constant gave component 'body.0' the factor -1.0 at"),
    (lambda: fit(Plain(), [Constant(None)]), ValueError, "'body.0' the factor None at"),
    (lambda: fit(Plain(), [Constant(float("nan"))]), ValueError, "factors must be finite numbers >= 0"),
    (lambda: fit(Plain(), [OwnUnit(1.0)]), ValueError, "unit must be one of step, epoch, generation, got 'epochs'"),
    (lambda: fit(Plain(), [Greedy()]), RuntimeError, "set `needs_gradients = True` on the factor"),
    # looking
    (lambda: explain(trainer()), ValueError, "give it an LR callback of structurenet_pl, or a GrowableModule, and"),
    (lambda: plot_strata(trainer()), ValueError, "there is no StrataMonitor in the Trainer: give plot_strata a"),
    # changes that keep the output
    (lambda: widen(nn.Linear(5, 6), nn.Linear(7, 3), 8), ValueError, "following[0] has 7 inputs, expected the 6 units"),
    (lambda: widen(nn.Linear(5, 6), nn.Linear(6, 3), 2), ValueError, "width must be larger than the 6 units of the"),
    (lambda: widen(nn.Sequential(), nn.Linear(6, 3), 8), TypeError, "got Sequential: give the layer itself, not the"),
]


@pytest.mark.parametrize(("program", "error", "message"), PROGRAMS, ids=[message for _, _, message in PROGRAMS])
def test_mistakes(program, error, message):
    with pytest.raises(error, match=re.escape(message)):
        program()
