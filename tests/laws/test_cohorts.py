"""Cohorts: the entries that a widening adds learn as a Parameter of their own would, and their ages survive all."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import cohort_worker
from cohort_nets import AsParameters, Births, Growing, Resizable, outcome, slow_cohorts
from helpers import assert_same, fit, loader
from structurenet_pl import AgeDecay, GrowthResponder, LRFactor, RoleLR, SedimentaryDecay, Warmup
from structurenet_pl.structure.module_structure import structure_of

EPOCHS, STEPS, LR = 5, 3, 0.02

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {}),
    "SGD momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.1}),
    "SGD nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "fused": True}),
    "Adam": (torch.optim.Adam, {"weight_decay": 0.1}),
    "Adam maximize": (torch.optim.Adam, {"maximize": True, "foreach": True}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1, "foreach": True}),
    "AdamW fused": (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    "AdamW amsgrad": (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    "NAdam": (torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "RAdam": (torch.optim.RAdam, {"weight_decay": 0.1}),
    "Adamax": (torch.optim.Adamax, {"weight_decay": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.01, "weight_decay": 0.1}),
    "Adadelta": (torch.optim.Adadelta, {"weight_decay": 0.1}),
}


class ByGeneration(LRFactor):
    """A factor of a user: every third generation stands still."""

    def factor(self, component, now):
        return (component.born.generation + 1) % 3 / 2


class Facts:
    """What the test knows of a cohort at a step, for the formulae below."""

    def __init__(self, births, log, generation, role, component, epoch, step):
        self.generation, self.role, self.epoch, self.step = generation, role, epoch, step
        self.born_epoch, self.born_step = births[generation]
        self.now = len(log)
        self.dips = [  # of the events in its lifetime, with the epochs that have passed since
            (
                0.9
                if event.clock.generation == generation
                else 0.7
                if component in (*event.widened, *event.adjacent)
                else 0.5,
                epoch - births[event.clock.generation][0],
            )
            for event in log
            if event.clock.generation >= max(1, generation)
        ]

    def warmup(self):
        return 1.0 if self.generation == 0 else 0.1 + 0.9 * min(1.0, (self.step - self.born_step + 1) / 4)

    def sediment(self):
        age = self.epoch - self.born_epoch
        return 1.0 if age < 1 else 0.5 if age < 3 else 0.0

    def responder(self):
        product = 1.0
        for dip, passed in self.dips:
            product *= 1 - (1 - dip) * 0.5 ** (passed / 2)
        return product


FACTORS = {
    "warm-up": (lambda: Warmup(4, unit="step", start=0.1), Facts.warmup),
    "age": (lambda: AgeDecay(0.5), lambda facts: 0.5 ** (facts.now - facts.generation)),
    "strata": (
        lambda: SedimentaryDecay([("active", 0, 1.0), ("sediment", 1, 0.5), ("geological", 3, 0.0)]),
        Facts.sediment,
    ),
    "events": (lambda: GrowthResponder(recovery=2), Facts.responder),
    "role": (lambda: RoleLR({"new": 2.0}), lambda facts: 2.0 if facts.role == "new" else 1.0),
    "own": (ByGeneration, lambda facts: (facts.generation + 1) % 3 / 2),
}


class Compare(Callback):
    """Trains each epoch again from its start, with a Parameter for each cohort."""

    def __init__(self, births, formulae, batches, gamma):
        self.births, self.formulae, self.batches, self.gamma = births, formulae, batches, gamma
        self.error = self.cohorts = 0
        self.dates = {0: (0, 0)}

    def on_train_epoch_start(self, trainer, pl_module):
        self.log = pl_module.growth_log
        for event in self.log:
            self.dates.setdefault(event.clock.generation, (trainer.current_epoch, trainer.global_step))
        self.reference = AsParameters(pl_module, trainer.optimizers[0], self.births.entries)
        self.cohorts = max(self.cohorts, len(self.reference.parts) - len(list(pl_module.parameters())))
        self.step = trainer.global_step

    def on_train_epoch_end(self, trainer, pl_module):
        base = LR * self.gamma**trainer.current_epoch
        for number, batch in enumerate(self.batches):

            def lr_of(name, generation, step=self.step + number):
                component, role = name.rpartition(".")[0], self.births.roles.get(generation)
                facts = Facts(self.dates, self.log, generation, role, component, trainer.current_epoch, step)
                lr = base
                for formula in self.formulae:
                    lr *= formula(facts)
                return lr

            self.reference.step(batch, lr_of)
        for name, tensor in self.reference.tensors().items():
            self.error = max(self.error, float((tensor - pl_module.get_parameter(name)).detach().abs().max()))


def compared(kind, optimizer, grouped, gamma, factors, events):
    make, settings = OPTIMIZERS[optimizer]
    scheduler = None if gamma == 1 else lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    torch.manual_seed(0)
    module = Resizable(kind, lambda params: make(params, lr=LR, **settings), grouped, scheduler).double()
    births = Births(events)
    compare = Compare(births, [FACTORS[name][1] for name in factors], list(loader(STEPS, shuffle=False)), gamma)
    # it compares before the next growth: on_train_epoch_end is called in this order
    fit(module, [*(FACTORS[name][0]() for name in factors), compare, births], EPOCHS, data=loader(STEPS, shuffle=False))
    return compare


EVENTS = st.dictionaries(
    st.integers(0, EPOCHS - 2),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**6), st.booleans()), min_size=1, max_size=2),
    min_size=1,
    max_size=3,
)
RUNS = {
    "kind": st.sampled_from(["linear", "conv", "embedding", "tied"]),
    "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
    "grouped": st.booleans(),
    "gamma": st.sampled_from([1, 0.9]),
    "factors": st.lists(st.sampled_from(sorted(FACTORS)), min_size=1, max_size=3, unique=True),
    "events": EVENTS,
}


def searched(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@given(**RUNS)
@searched(25)
def test_equal_to_a_parameter_for_each_cohort(**drawn):
    assert compared(**drawn).error < 1e-12


@pytest.mark.slow
@given(**RUNS)
@searched(400)
def test_equal_to_a_parameter_for_each_cohort_in_many_runs(**drawn):
    assert compared(**drawn).error < 1e-12


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equal_to_a_parameter_for_each_cohort_under_every_optimizer(optimizer):
    events = {0: [(0, 5, True)], 1: [(1, 12, False), (0, 2, False)], 3: [(1, 1, True)]}
    compare = compared("conv", optimizer, True, 0.9, ["events", "own", "warm-up"], events)
    assert compare.error < 1e-12
    assert compare.cohorts > 5


def trained(factors, lr=0.1, epochs=4, **kwargs):
    torch.manual_seed(0)
    module = Resizable("conv", lambda params: torch.optim.AdamW(params, lr=lr))
    events = Births({0: [(0, 5, True)], 1: [(1, 12, False), (0, 2, False)]})
    trainer = fit(module, [*factors, events], epochs, **kwargs)
    return {
        "weights": dict(module.named_parameters()),
        "state": list(trainer.optimizers[0].state.values()),
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
    }


@pytest.mark.parametrize(("new", "old"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.0, 0.0)])
def test_equal_factors_are_those_of_the_whole_component(new, old):
    """Bit for bit a run without us, at the base lr times the factor."""

    class Equal(LRFactor):
        def factor(self, component, now):
            return new if component.born.generation else old

    assert_same(trained([Equal()]), trained([], 0.1 * old))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and its checkpoints."""
    folder = tmp_path_factory.mktemp("cohorts")
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    save = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    module = Growing()
    trainer = fit(module, [*slow_cohorts(), save], 6, enable_checkpointing=True)
    return outcome(module, trainer), folder


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
@pytest.mark.parametrize("epoch", range(5))
def test_resumed_equals_uninterrupted(whole, epoch):
    expected, folder = whole
    seed_everything(99, verbose=False)
    module = Growing()
    trainer = fit(module, slow_cohorts(), 6, folder / f"epoch={epoch}.ckpt")
    assert expected["shares"]
    assert_same(outcome(module, trainer), expected)


@pytest.mark.slow
def test_resumed_in_a_fresh_process(whole, tmp_path):
    expected, folder = whole
    command = [sys.executable, "-W", "ignore", cohort_worker.__file__, str(folder / "epoch=2.ckpt"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    resumed = torch.load(tmp_path / "resumed.pt", weights_only=False)
    assert_same(resumed, {key: expected[key] for key in resumed})


def test_copies_and_loaded_modules_train_like_the_module(whole):
    """Each begins a second fit, where dates count no more: events keep their order, and all entries are of age 0."""
    _, folder = whole
    loaded = Growing.load_from_checkpoint(folder / "epoch=4.ckpt")
    modules = [loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))]
    results = []
    for module in modules:
        seed_everything(5, verbose=False)
        factors = [SedimentaryDecay([("active", 0, 1.0), ("sediment", 1, 0.1)]), AgeDecay(0.5, unit="generation")]
        trainer = fit(module, factors, 2)
        results.append(outcome(module, trainer))
        births = {cohort.born for some in structure_of(module).cohorts.values() for cohort in some}
        assert {born.generation for born in births} > {0, 1, 2}
        assert all(born.epoch == born.step == 0 for born in births if born.generation <= 4)
    for other in results[1:]:
        assert_same(other, results[0])
