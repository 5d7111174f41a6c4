"""After a growth, the terminal says what has changed, and nothing else."""

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from helpers import Net, Toggling, fit
from structurenet_pl import (
    DepthDecay,
    GrowEvery,
    GrowthResponder,
    LARSScaler,
    LRFactor,
    StrataMonitor,
    Warmup,
    growth,
    widen,
)

pytestmark = pytest.mark.filterwarnings("ignore:StrataMonitor has no logger")


def reports(capsys, callbacks, module=None, **kwargs):
    """The reports of growth that a fit prints, each as a list of lines."""
    fit(module or Net(), [*callbacks, StrataMonitor()], **kwargs)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    starts = [row for row, line in enumerate(lines) if line.startswith("Growth ")]
    return [lines[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def test_it_names_event_newborn_and_neighbours_and_counts_the_rest(capsys):
    callbacks = [
        *(Warmup(), GrowthResponder()),
        GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}),
        GrowEvery("add_neck", 2, limit=1),
    ]
    assert reports(capsys, callbacks, epochs=3) == [
        [
            "Growth 1, from epoch 1, step 4 on: add_patch(at=0, inner=4), by GrowEvery",
            "  born    patches.0 (patch): lr 0.018 = 0.1 × 0.2 Warmup × 0.9 GrowthResponder",  # noqa: RUF001
            "  slower  body.0, body.3: lr 0.07, GrowthResponder 1 → 0.7",
            "  slower  2 further away: GrowthResponder 1 → 0.5",
        ],
        [
            "Growth 2, from epoch 2, step 8 on: add_neck(), by GrowEvery",
            "  born    necks.0 (neck): lr 0.018 = 0.1 × 0.2 Warmup × 0.9 GrowthResponder",  # noqa: RUF001
            "  slower  body.4, head: lr 0.035, GrowthResponder 0.5 → 0.35",
            "  slower  3 further away",
        ],
    ]


def test_a_factor_of_gradients_is_not_asked_between_steps(capsys):
    (report,) = reports(capsys, [LARSScaler(0.1), GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert report[1].startswith("  born  necks.0 (neck): lr ")
    assert len(report) == 2


def test_growth_that_moves_no_rate_says_what_was_born(capsys):
    (report,) = reports(capsys, [GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert report == [
        "Growth 1, from epoch 1, step 4 on: add_neck(), by GrowEvery",
        "  born  necks.0 (neck): lr 0.1 = base lr",
    ]


class Wider(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))

    @growth(role="new")
    def wider(self):
        widen(self.body[0], self.body[2], 12)

    @growth()
    def drop(self):
        self.body = self.body[:1].append(nn.Linear(self.body[0].out_features, 8))

    @growth()
    def remove(self):
        del self.necks[0]


def test_widening_and_removal(capsys):
    class Ask(Callback):
        def on_train_epoch_end(self, trainer, net):
            ((net.wider, net.add_neck, net.remove)[trainer.current_epoch])()

    wider, _, remove = reports(capsys, [Warmup(2), Ask()], Wider(), epochs=3)
    assert wider == [
        "Growth 1, from epoch 1, step 4 on: wider(), by user code",
        "  widened  body.0, body.2 (new): new entries have lr 0.05 = 0.1 × 0.5 Warmup",  # noqa: RUF001
    ]
    assert remove[:2] == [
        "Growth 3, from epoch 3, step 12 on: remove(), by user code",
        "  removed  necks.0",
    ]


def test_what_moves_by_time_at_the_same_moment_is_not_the_doing_of_growth(capsys):
    class SlowFromEpoch1(LRFactor):
        def factor(self, component, now):
            return 0.5 if now.clock.step >= 4 else 1.0

    (report,) = reports(capsys, [SlowFromEpoch1(), GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert report[1:] == ["  born  necks.0 (neck): lr 0.05 = 0.1 × 0.5 SlowFromEpoch1"]  # noqa: RUF001


def test_a_rate_that_follows_the_width_moves_by_widening(capsys):
    class ByWidth(LRFactor):
        unit = "generation"

        def factor(self, component, now):
            return 2 / component.shapes[0][0]

    (report,) = reports(capsys, [ByWidth(), GrowEvery("wider", 1, limit=1)], Wider(), epochs=2)
    assert report[2:] == ["  slower   body.0: lr 0.0167, ByWidth 0.25 → 0.167"]


class TwoOptimizers(Toggling, Net):
    def configure_optimizers(self):
        body = set(self.body.parameters())
        rest = [tensor for tensor in self.parameters() if tensor not in body]
        return [torch.optim.SGD(tensors, lr=1.0) for tensors in (list(body), rest)]


def test_depths_are_compared_within_one_optimizer(capsys):
    net = TwoOptimizers()
    net.add_neck()
    # the second neck, in the optimizer of the head, moves nothing in the body
    (report,) = reports(capsys, [DepthDecay(0.25), GrowEvery("add_neck", 1, limit=1)], net, epochs=2)
    assert report[1:] == [
        "  born    necks.1 (neck): lr 0.63 = 1 × 0.63 DepthDecay",  # noqa: RUF001
        "  slower  necks.0: lr 0.397, DepthDecay 0.5 → 0.397",
    ]


def test_hundreds_of_components_take_a_few_lines(capsys):
    class Deep(Net):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), *(nn.Linear(8, 8) for _ in range(150)))

        @growth(role="neck")
        def add_necks(self):
            self.necks.extend(nn.Linear(8, 8) for _ in range(150))

    (report,) = reports(capsys, [GrowthResponder(), GrowEvery("add_necks", 1, limit=1)], Deep(), epochs=1)
    assert len(report) <= 8
    assert "necks.7, 141 more, necks.149 (neck): lr 0.09" in " ".join(" ".join(report).split())
