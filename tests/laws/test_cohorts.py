"""Cohorts: the entries that a widening adds learn as a Parameter of their own would, and their ages survive all."""

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback

from cohort_nets import AsParameters, Births, Resizable
from helpers import fit, loader
from structurenet_pl import AgeDecay, GrowthResponder, LRFactor, RoleLR, SedimentaryDecay, Warmup

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


@given(**RUNS)
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
def test_equal_to_a_parameter_for_each_cohort(**drawn):
    assert compared(**drawn).error < 1e-12
