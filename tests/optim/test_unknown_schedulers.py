"""Schedulers that nobody knows: classes with random attribute names, of many shapes, move base lrs as without us.

No list of names could pass this: each name is made up when the test is collected.
"""

import copy
import pickle
import random
import string
import sys

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import LRScheduler

from helpers import BATCHES, Net, Plain, assert_same, fit, loader, slow_but_for, weights
from structurenet_pl import GrowEvery, LRFactor, growth, widen
from structurenet_pl.learning_rates.lr_table import table_of

EPOCHS = 6
SEEDS = slow_but_for(range(7), range(42))  # each shape once
SHAPES = ["list", "tuple", "dict", "groups", "lambdas", "nested", "recursive"]


def name(rng):
    return "_" * rng.randint(0, 2) + "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))


class Curve:
    """What the made up classes have in common: a number of steps, and a curve by group, which differs by its start."""

    def advance(self):
        self.count += 1

    def value(self, start):
        return start * (1 + self.count % 5) / (1 + self.count / 7)


def build(seed):
    """A scheduler class: what it keeps, under what name, how it writes, and what else is odd about it."""
    rng = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    kept, inner, held = (name(rng) for _ in range(3))
    of_torch = shape != "nested" and rng.random() < 0.5
    held = "optimizer" if of_torch else held

    class Scheduler(Curve, *([LRScheduler] if of_torch else [])):
        def __init_subclass__(cls, key, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.key = key

        def __init__(self, optimizer):
            self.count = 0
            self.itself = self
            setattr(self, held, optimizer)
            groups = optimizer.param_groups
            starts = [group["lr"] for group in groups]
            made = {
                "list": starts,
                "tuple": tuple(starts),
                "dict": dict(enumerate(starts)),
                "groups": [(group, group["lr"]) for group in groups],
                "lambdas": [lambda value, start=start: value(start) for start in starts],
                "nested": None,
                "recursive": None,
            }[shape]
            setattr(self, kept, made)
            if shape == "nested":
                setattr(self, inner, [KINDS["list"](optimizer)])
            if of_torch:
                super().__init__(optimizer)

        def lrs(self):
            own = getattr(self, kept)
            if shape == "dict":
                return [self.value(own[index]) for index in range(len(own))]
            if shape == "groups":
                return [self.value(start) for _, start in own]
            if shape == "lambdas":
                return [function(self.value) for function in own]
            if shape == "recursive":
                return [group["lr"] * (0.9 if self.count % 3 else 1.05) for group in getattr(self, held).param_groups]
            return [self.value(start) for start in own]

        def get_lr(self):
            self.count = self.last_epoch
            return self.lrs()

        def step(self, *args):
            if of_torch:
                super().step()
                return
            self.advance()
            if shape == "nested":
                getattr(self, inner)[0].step()
            elif shape == "groups":
                for (group, _), lr in zip(getattr(self, kept), self.lrs(), strict=True):
                    group["lr"] = lr
            else:
                for group, lr in zip(getattr(self, held).param_groups, self.lrs(), strict=True):
                    group["lr"] = lr

        def state_dict(self):
            within = getattr(self, inner)[0].state_dict() if shape == "nested" else None
            return {"count": self.count, "epoch": getattr(self, "last_epoch", 0), "within": within}

        def load_state_dict(self, state):
            self.count = state["count"]
            if of_torch:
                self.last_epoch = state["epoch"]
            if shape == "nested":
                getattr(self, inner)[0].load_state_dict(state["within"])

        def __getstate__(self):
            return {key: value for key, value in vars(self).items() if key != "itself"}

    kind = type(f"Made{seed}", (Scheduler,), {}, key=seed)
    kind.__module__, kind.__qualname__ = __name__, kind.__name__
    kind.shape, kind.held = shape, held
    setattr(sys.modules[__name__], kind.__name__, kind)
    return kind


KINDS = {}
for number in range(42):
    made = KINDS[number] = build(number)
    KINDS.setdefault(made.shape, made)


def two_groups(params):
    params = list(params)
    decay, no_decay = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": no_decay, "lr": 0.05}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


class Steps:
    """Steps a scheduler under a made up name in one hook or another; the scheduler is no business of Lightning's."""

    seed = 0

    def configure_optimizers(self):
        optimizer = two_groups(self.parameters())
        self.path = name(random.Random(self.seed + 1000))
        vars(self)[self.path] = {"kept": KINDS[self.seed](optimizer)}
        return optimizer

    @property
    def schedule(self):
        return vars(self)[self.path]["kept"]

    def on_train_batch_end(self, *args):
        self.schedule.step()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["schedule"] = self.schedule.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.saved = checkpoint["schedule"]

    def on_train_start(self):
        if hasattr(self, "saved"):
            self.schedule.load_state_dict(self.saved)


class StepsPlain(Steps, Plain):
    pass


class StepsNet(Steps, Net):
    @growth()
    def wider(self):
        widen(self.body[0], self.body[3], 12)

    @growth()
    def drop(self):
        del self.patches[0]


class GivenToLightning:
    """The same, stepped by Lightning, or by the hook that Lightning has for strange schedulers."""

    seed = 0

    def configure_optimizers(self):
        optimizer = two_groups(self.parameters())
        scheduler = KINDS[self.seed](optimizer)
        scheduler.optimizer = optimizer  # Lightning wants to know
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()


class GivenPlain(GivenToLightning, Plain):
    pass


class GivenNet(GivenToLightning, StepsNet):
    configure_optimizers = GivenToLightning.configure_optimizers

    def on_train_batch_end(self, *args):
        pass

    on_save_checkpoint = on_load_checkpoint = lambda self, checkpoint: None


class Wobble(LRFactor):
    def factor(self, component, now):
        return wobble(component.name, now.clock.step)


def wobble(name, step):
    return (1 + step % 5) / len(name)


class Trace(Callback):
    """Lrs at each step: of each of the user's groups without us, of the pieces of each with us."""

    def __init__(self):
        self.rows = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        table = table_of(optimizer)
        if table is None:
            self.rows.append([group["lr"] for group in optimizer.param_groups])
        else:
            rows = [
                [(table.groups.group_infos[p["name"]].component, p["lr"]) for p in pieces] for _, pieces in table.groups
            ]
            self.rows.append(rows)


def train(kind, seed, callbacks=(), epochs=EPOCHS, ckpt_path=None):
    torch.manual_seed(0)
    module = type(kind.__name__, (kind,), {"seed": seed})()
    trace = Trace()
    trainer = fit(module, [*callbacks, trace], epochs=epochs, ckpt_path=ckpt_path, data=loader(shuffle=False))
    return trace.rows, module, trainer


def grows():
    return [
        GrowEvery("add_patch", 1, limit=1, arguments={"at": 0}),
        GrowEvery("wider", 2, limit=1),
        GrowEvery("add_neck", 3, limit=1),
        GrowEvery("drop", 4, limit=1),
    ]


def check(alone, ours, start=0):
    """Every lr of a piece is that of its group without us, times its factor, to the last bit."""
    assert len({tuple(row) for row in alone}) > 10, "the scheduler should act"
    components = set()
    for step, (bases, row) in enumerate(zip(alone[start:], ours, strict=True), start):
        for base, pieces in zip(bases, row, strict=True):
            assert [lr for _, lr in pieces] == [base * wobble(component, step) for component, _ in pieces]
            components |= {component for component, _ in pieces}
    assert components >= {"body.0", "head", "patches.0", "necks.0"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", [(StepsPlain, StepsNet), (GivenPlain, GivenNet)], ids=["kept", "given"])
def test_base_lrs_are_those_without_us(kinds, seed, tmp_path):
    """With growth, widening and removal; and after a resume in the middle of it."""
    plain, net = kinds
    alone, _, _ = train(plain, seed)
    ours, module, trainer = train(net, seed, [Wobble(), *grows()])
    assert [event.method for event in module.growth_log] == ["add_patch", "wider", "add_neck", "drop"]
    check(alone, ours)
    if kinds[0] is GivenPlain:
        assert trainer.lr_scheduler_configs[0].scheduler.optimizer is trainer.optimizers[0]
    else:
        assert getattr(module.schedule, KINDS[seed].held) is trainer.optimizers[0]
        assert type(module.schedule) is KINDS[seed]

    half = EPOCHS // 2
    train(net, seed, [Wobble(), *grows()], epochs=half)[2].save_checkpoint(tmp_path / "half.ckpt")
    second, resumed, _ = train(net, seed, [Wobble(), *grows()], ckpt_path=tmp_path / "half.ckpt")
    assert second == ours[half * BATCHES :]
    assert_same(weights(resumed), weights(module))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [StepsNet, GivenNet])
def test_copies_in_mid_fit_are_of_the_same_class_and_on_the_users_groups(kind, seed):
    copies = []

    class Copies(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch != 3:
                return
            given = trainer.lr_scheduler_configs
            pair = trainer.optimizers[0], given[0].scheduler if given else pl_module.schedule
            copies.extend([copy.deepcopy(pair), copy.deepcopy(pair[::-1])[::-1]])
            if KINDS[seed].shape != "lambdas":  # which do not pickle without us either
                copies.append(pickle.loads(pickle.dumps(pair)))

    alone, _, _ = train(StepsPlain if kind is StepsNet else GivenPlain, seed)
    ours, _, _ = train(kind, seed, [Wobble(), *grows(), Copies()])
    check(alone, ours)
    assert copies
    for optimizer, scheduler in copies:
        assert type(scheduler) is KINDS[seed]
        assert getattr(scheduler, KINDS[seed].held) is optimizer
        assert type(optimizer) is torch.optim.SGD
        for step in range(3 * BATCHES, 3 * BATCHES + 4):
            assert [group["lr"] for group in optimizer.param_groups] == alone[step]
            optimizer.step()
            scheduler.step()
