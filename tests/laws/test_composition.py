"""Laws that every exported LRFactor must satisfy. No skip list: a new factor is tested as soon as it is exported."""

import csv
import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from helpers import EXAMPLES, FACTORS, LRTrace, Net, Plain, assert_same, example_factors, fit, loader, weights
from structurenet_pl import Clock, Component, GrowEvery, GrowthEvent, LARSScaler, Moment, Norms
from structurenet_pl.engine.driver import Driver

EXCEPTIONS = {LARSScaler: {"on_fit_start", "before_step"}}  # mode "grad"
GROWING = [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 2, limit=1)]

LOG = (
    GrowthEvent("add", {}, Clock(4, 1, 1), ("patch",), ("stem", "body"), "patch"),
    GrowthEvent("add", {}, Clock(12, 3, 2), ("neck",), ("body", "head"), "neck"),
)
SPINE = (
    Component("stem", "scaffold", 0),
    Component("patch", "patch", 0, Clock(4, 1, 1)),
    Component("body", "scaffold", 1),
    Component("neck", "neck", 2, Clock(12, 3, 2)),
    Component("head", None, 3),
)


def norms(component, skip_1d):
    return Norms(2.0, 0.5 + component.depth, 0.1)


def density(component):
    return {0: 0.01, 1: 0.05, 2: 0.5, 3: None}[component.depth]


def moments():
    for epoch in range(8):
        clock = Clock(4 * epoch, epoch, sum(event.clock.epoch <= epoch for event in LOG))
        yield Moment(clock, LOG, SPINE, norms=norms, density=density)


def make(kind, **kwargs):
    return kind(**EXAMPLES[kind], **kwargs)


def neutral(kind):
    """A factor that reads all that its class reads, and then changes nothing."""

    def factor(self, component, now):
        kind.factor(self, component, now)
        return 1.0

    return type(kind.__name__, (kind,), {"factor": factor})(**EXAMPLES[kind])


@pytest.mark.parametrize("kind", FACTORS)
def test_finite_and_not_negative(kind):
    values = [make(kind).factor(component, now) for component in SPINE for now in moments()]
    assert all(isinstance(value, float) and 0 <= value < math.inf for value in values)
    assert set(values) != {1.0}, "the example should act"


@pytest.mark.parametrize("kind", FACTORS)
def test_pure(kind):
    factor = make(kind)
    before = dict(vars(factor))
    calls = list(itertools.product(SPINE, moments()))
    once = [factor.factor(*call) for call in calls]
    random.shuffle(order := list(range(len(calls))))
    again = {index: factor.factor(*calls[index]) for index in order}
    assert [again[index] for index in range(len(calls))] == once
    assert vars(factor) == before


@pytest.mark.parametrize("kind", FACTORS)
def test_causal(kind):
    for component, now in itertools.product(SPINE, moments()):
        past = tuple(event for event in LOG if event.clock.generation <= now.clock.generation)
        blind = replace(now, log=past)
        assert make(kind).factor(component, now) == make(kind).factor(component, blind)


@pytest.mark.parametrize("kind", FACTORS)
def test_where_limits_it(kind):
    limited, everywhere = make(kind, where=["scaffold", "ne*"]), make(kind)
    for component, now in itertools.product(SPINE, moments()):
        part = tuple(member for member in SPINE if member.name in ("stem", "body", "neck"))
        expected = everywhere.factor(component, replace(now, components=part)) if component in part else 1.0
        assert limited.applied(component, now) == expected


@pytest.mark.parametrize("kind", FACTORS)
def test_needs_no_more_than_init_and_factor(kind):
    """It overrides no other method of its bases, so it has no hooks of its own."""
    methods = {name for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}
    overridden = {name for name in methods if hasattr(super(kind, kind), name)}
    assert overridden - EXCEPTIONS.get(kind, set()) == {"factor"}


def trace(callbacks, **kwargs):
    torch.manual_seed(3)
    record = LRTrace()
    fit(Net(), [*callbacks, *GROWING, record], epochs=3, **kwargs)
    return record.rows


def test_order_free():
    factors = example_factors()
    expected = trace(factors)
    for seed in range(4):
        random.Random(seed).shuffle(factors)
        assert trace(factors) == expected


@pytest.mark.filterwarnings(
    "ignore:ProgressiveFreeze_1 and ProgressiveFreeze_2 both freeze"
)  # is said; they multiply, too
@pytest.mark.parametrize("kind", FACTORS)
def test_two_of_a_kind_multiply(kind):
    net, record = Net(), LRTrace()
    factors = [make(kind), make(kind, where="scaffold")]
    products = []

    class Watch(LRTrace):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            table = Driver.of(trainer).tables[optimizer]
            products.append(
                {name: math.prod(row) for name, row in zip(table.matrix.piece_names, table.matrix.values, strict=True)}
            )

    fit(net, [*factors, *GROWING, record, Watch()], epochs=3)
    for row, product in zip(record.rows, products, strict=True):
        assert row == pytest.approx({name: 0.1 * product[name] for name in row}, rel=1e-15)  # one rounding
    assert any(set(product.values()) != {1.0} for product in products)


def logged_rows(logger):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return list(csv.DictReader(file))


def run(callbacks, module=Plain, **kwargs):
    """Weights, logs and lrs of a run in which everything could go wrong."""
    torch.manual_seed(3)
    net = module(
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    )
    logger, record = CSVLogger("logs", name=None, version=str(random.random())), LRTrace()
    fit(
        net,
        [*callbacks, record],
        epochs=3,
        logger=logger,
        log_every_n_steps=1,
        gradient_clip_val=0.05,
        accumulate_grad_batches=2,
        data=loader(6),
        **kwargs,
    )
    logged = logged_rows(logger)
    assert {"loss", "step"} <= set(logged[0])
    return weights(net), logged, [sorted(set(row.values())) for row in record.rows]


@pytest.mark.parametrize("kind", [*FACTORS, None])
@pytest.mark.parametrize("module", [Plain, Net])
def test_factors_of_one_are_not_there(kind, module):
    factors = [neutral(member) for member in FACTORS if kind in (member, None)]
    assert_same(run(factors, module), run([]))


def test_effective_lr_is_what_lightning_monitors():
    record = LRTrace()
    monitor = LearningRateMonitor("step")
    logger = CSVLogger("logs")
    factors = [factor for factor in example_factors() if not factor.needs_gradients]  # these move after it has logged
    fit(Net(), [monitor, *factors, *GROWING, record], epochs=3, logger=logger, log_every_n_steps=1)
    rows = [
        {tag.removeprefix("lr-SGD/"): float(value) for tag, value in row.items() if tag.startswith("lr-SGD/") and value}
        for row in logged_rows(logger)
    ]
    assert [row for row in rows if row] == record.rows


@pytest.mark.parametrize("kind", FACTORS)
def test_each_parameter_stands_in_one_group_after_growth(kind):
    net = Net()
    trainer = fit(net, [make(kind), *GROWING], epochs=3)
    held = [tensor for group in trainer.optimizers[0].param_groups for tensor in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == set(net.parameters())
    names = [group["name"] for group in trainer.optimizers[0].param_groups]
    assert len(names) == len(set(names))
    assert len(net.growth_log) == 2


@pytest.mark.parametrize("kind", [kind for kind in FACTORS if not kind.needs_gradients])  # these move at every step
def test_factor_moves_with_its_unit_only(kind):
    """The driver evaluates it when this has moved, and only then."""
    factor = make(kind)
    for component, now in itertools.product(SPINE, moments()):
        coarse = now.clock.truncated_to(factor.unit)
        finer = {"step": {}, "epoch": {"step": 77}, "generation": {"step": 77, "epoch": 77}}[factor.unit]
        same = replace(now, clock=replace(now.clock, **finer))
        assert same.clock.truncated_to(factor.unit) == coarse
        assert factor.factor(component, same) == factor.factor(component, now)
