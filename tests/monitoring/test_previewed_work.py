"""A preview says what freezing will save: the share of the multiply-adds that the run then really saves."""

import logging
import math
from copy import deepcopy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import BATCHES, Net, Plain, fit, weights
from structurenet_pl import GrowEvery, LRFactor, ProgressiveFreeze, Warmup, preview
from structurenet_pl.engine.driver import Driver

EPOCHS = 6
PHASES = [("all", 0, 1.0, 1.0, 0), ("two", 2, 0.0, 1.0, 2), ("thaw", 4, 1.0, 1.0, 0), ("last", 5, 0.0, 1.0, -1)]
GROWTH = [GrowEvery("add_patch", 2, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 3, limit=1)]


class FreezeOut(LRFactor):
    """Each depth is annealed to 0 by a cosine, the first depths earlier; the last one trains to the end."""

    freezes = True

    def factor(self, component, now):
        index, n = now.rank(component)
        end = BATCHES * EPOCHS * (0.4 + 0.7 * (index + 1) / n)
        return (1 + math.cos(math.pi * min(1, now.clock.step / end))) / 2


class Convolutions(Plain):
    """Early layers have little of the parameters and most of the work."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU()),
            nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Dropout(0.2), nn.Flatten()),
            nn.Linear(24, 8),
        )


class Chain(Net):
    """Without parallel parts: where one patch trains, every patch at its depth gets a gradient of its input."""

    def forward(self, x):
        x = self.body(x)
        for part in (*self.patches, *self.necks):
            x = part(x)
        return self.head(x)


def flops(make, callbacks):
    """The floating-point operations of a run's matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        fit(make(), deepcopy(callbacks), epochs=EPOCHS)
    return counter.get_total_flops()


@pytest.mark.parametrize("factor", [ProgressiveFreeze(PHASES), FreezeOut()], ids=["ProgressiveFreeze", "FreezeOut"])
@pytest.mark.parametrize(("make", "growth"), [(Plain, []), (Convolutions, []), (Chain, GROWTH[1:])])
def test_the_share_is_that_of_the_run(make, growth, factor):
    seen = preview([factor, *growth], (), make(), EPOCHS, BATCHES, example_input=torch.zeros(3, 6))
    assert seen.frozen.any()
    assert 0.1 < seen.saved_work < 0.9
    assert seen.saved_work == pytest.approx(1 - flops(make, [factor, *growth]) / flops(make, growth), rel=1e-12)


class Shares(Callback):
    def __init__(self):
        self.shares = []

    def on_train_batch_end(self, trainer, *args):
        self.shares.append(Driver.of(trainer).frozen.work or 0.0)


def test_the_share_is_what_the_run_reports():
    reported = Shares()
    fit(Convolutions(), [ProgressiveFreeze(PHASES), reported], epochs=EPOCHS)
    seen = preview([ProgressiveFreeze(PHASES)], (), Convolutions(), EPOCHS, BATCHES, example_input=torch.zeros(3, 6))
    assert seen.saved_work == pytest.approx(sum(reported.shares) / len(reported.shares), rel=1e-12)


def test_a_log_counts_as_its_triggers_do():
    freeze, example, grown = ProgressiveFreeze(PHASES), torch.zeros(3, 6), Net()
    fit(grown, [Warmup(), *GROWTH], epochs=EPOCHS)
    by_log = preview([freeze], grown.growth_log, Net(), EPOCHS, example_input=example)
    by_triggers = preview([freeze, *GROWTH], (), Net(), EPOCHS, BATCHES, example_input=example)
    assert by_log.saved_work == by_triggers.saved_work
    without_growth = preview([freeze], (), Net(), EPOCHS, BATCHES, example_input=example)
    assert by_log.saved_work != without_growth.saved_work


@pytest.mark.parametrize("example", [torch.zeros(3, 6), (torch.zeros(3, 6),), {"x": torch.zeros(3, 6)}])
def test_the_module_may_bring_its_input(example):
    module = Convolutions()
    module.example_input_array = example
    before, state = weights(module), torch.get_rng_state()
    seen = preview([ProgressiveFreeze(PHASES)], (), module.eval(), EPOCHS)
    assert torch.equal(torch.get_rng_state(), state)
    other = preview([ProgressiveFreeze(PHASES)], (), module, EPOCHS, example_input=torch.zeros(9, 6))
    assert seen.saved_work == other.saved_work > 0
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_what_the_user_froze_is_not_saved_by_the_callback():
    module = Plain()
    module.body[0].requires_grad_(False)
    phases = [("all", 0, 1.0, 1.0, 0), ("first", 2, 0.0, 1.0, 1)]
    assert preview([ProgressiveFreeze(phases)], (), module, 4, example_input=torch.zeros(3, 6)).saved_work == 0


@pytest.fixture
def said(caplog):
    """The lines of this package, as a user sees them."""
    caplog.set_level(logging.INFO)
    return lambda: [record.message for record in caplog.records if "freezing" in record.message]


def test_what_is_known_is_said(said):
    freeze, example, net = [ProgressiveFreeze(PHASES)], torch.zeros(3, 6), Convolutions()
    share = preview(freeze, (), net, 60, example_input=example).saved_work
    assert said() == [f"freezing saves {share:.0%} of the multiply-adds of 60 epochs"]
    assert preview([Warmup()], (), net, 60).saved_work == 0
    assert len(said()) == 1

    assert preview(freeze, (), net, 60).saved_work is None
    sizes = [sum(tensor.numel() for tensor in part.parameters()) for part in (*net.body, net.head)]
    left_out = (2 * sum(sizes[:2]) + 55 * sum(sizes[:3])) / (60 * sum(sizes))
    assert said()[1:] == [
        f"freezing skips {left_out:.0%} of the parameter updates of 60 epochs; give preview an "
        "example_input to know how many multiply-adds that saves"
    ]


def test_what_is_not_known_is_said(said):
    freeze, example = ProgressiveFreeze(PHASES), torch.zeros(3, 6)
    grown = Net()
    fit(grown, [Warmup(), *GROWTH], epochs=EPOCHS)
    advice = "give preview the module as it is before the run, and an example_input, to know how many multiply-adds"
    for module, log in ((grown, ()), (None, grown.growth_log), (Plain(), grown.growth_log)):
        assert preview([freeze], log, module, EPOCHS, example_input=example).saved_work is None
        assert said()[-1] == f"{advice} freezing saves in 6 epochs"
    assert len(said()) == 3


def test_an_input_that_does_not_fit_is_refused():
    expected = r"Plain does not run on the example_input of preview, expected what its forward takes.*shapes cannot be"
    with pytest.raises(ValueError, match=expected):
        preview([ProgressiveFreeze(PHASES)], (), Plain(), EPOCHS, example_input=torch.zeros(3, 5))
