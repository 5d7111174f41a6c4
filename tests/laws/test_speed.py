"""A step makes few Python calls in this package. Calls are counted, not times: they are equal on every machine."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import structurenet_pl
from helpers import Plain, fit, loader
from structurenet_pl import (
    AgeDecay,
    DensityScaler,
    DepthDecay,
    GrowthMixin,
    GrowthResponder,
    ProgressiveFreeze,
    RoleLR,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    growth,
    widen,
)

MONITORING = ("strata_monitor.", "table_recorder.", "run_record.", "series.", "row_writer.")
ROOT = str(Path(structurenet_pl.__file__).parent)


class Wide(Plain):
    """A component in each layer."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(layers - 1)))
        self.head = nn.Linear(6, 3)


class Blocks(GrowthMixin, Wide):
    """The same, growable."""

    @growth()
    def add(self):
        self.body.append(nn.Linear(6, 6, bias=False))

    @growth()
    def widen_first(self):
        widen(self.body[0], self.body[1], width=9)


class Counting(Callback):
    """Counts the calls of functions of this package from the start of one batch to the start of the next."""

    def __init__(self, batch=5):
        self.batch, self.calls = batch, Counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            sys.setprofile(self.note)
        elif batch_idx == self.batch + 1:
            sys.setprofile(None)

    def note(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            self.calls[f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"] += 1


def at_rest():
    return [
        Warmup(5),
        SedimentaryDecay([("active", 0, 1.0), ("sediment", 5, 0.5)]),
        GrowthResponder(recovery=5),
        ProgressiveFreeze([("all", 0, 1.0, 1.0, 0), ("late", 9, 0.0, 1.0, 2)]),
        AgeDecay(0.5, per=2, unit="epoch"),
        DepthDecay(),
        RoleLR({"scaffold": 0.5}, where="body.*"),
        DensityScaler(),
    ]


def calls(module, callbacks, **kwargs):
    counting = Counting()
    fit(module, [*callbacks, counting], epochs=1, data=loader(8), **kwargs)
    return counting.calls


MOVING = Warmup(1000, unit="step", newborn_only=False)


@pytest.mark.parametrize(
    ("components", "callbacks", "limit"),
    [
        (100, at_rest(), 60),
        (100, [*at_rest()[1:], MOVING], 120),
        (1000, [*at_rest()[1:], MOVING], 200),
    ],
    ids=["at rest", "one moving", "one moving over many"],
)
@pytest.mark.parametrize("make", [Wide, Blocks])
@pytest.mark.filterwarnings("ignore:.*matches nothing")
def test_a_step_makes_few_calls(make, components, callbacks, limit):
    counted = calls(make(components), callbacks)
    assert counted.total() <= limit, counted.most_common()


def test_a_schedule_makes_as_many_calls_with_more_components():
    schedule = partial(CosineAnnealingLR, T_max=100)
    few, many = (calls(Wide(n, scheduler=schedule, interval="step"), at_rest()).total() for n in (10, 300))
    assert few == many <= 180


def test_the_monitor_makes_as_many_calls_with_more_components():
    few, many = (
        calls(Wide(n), [MOVING, StrataMonitor(table=False)], logger=CSVLogger("logs"), log_every_n_steps=50).total()
        for n in (10, 300)
    )
    assert few == many <= 150


def test_the_monitor_makes_as_many_calls_with_cohorts_that_are_equal():
    def counted(net):
        logger = CSVLogger("logs")
        counted = calls(net, [MOVING, StrataMonitor(table=False)], logger=logger, log_every_n_steps=50)
        return {name: count for name, count in counted.items() if name.startswith(MONITORING)}

    founding, wider = Blocks(4), Blocks(4)
    wider.widen_first()
    assert counted(founding) == counted(wider) != {}


def test_a_step_makes_few_calls_with_a_hundred_components_and_events():
    """Each is born at another time, so each has another factor, and all recover at every step."""
    net = Blocks(2)
    for _ in range(98):
        net.add()
    counted = calls(net, [GrowthResponder(recovery=1000, unit="step")])
    assert len(net.components) == 100
    assert counted.total() <= 2000
