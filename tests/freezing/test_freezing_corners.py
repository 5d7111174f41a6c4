"""Freezing beside what people do in the middle of a fit, and after it."""

import copy
import pickle
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.utils import parametrizations, prune

from freezing_nets import REST, THAW, Grows, Normed, modes, moved, parameters, trainable
from helpers import Plain, fit, loader
from recorders import KeepBytes, See
from structurenet_pl import GrowEvery, ProgressiveFreeze, growth, widen
from structurenet_pl.engine.driver import Driver

FROZEN = [("rest", 0, 0.0, 1.0, 2)]


class WithTest(Normed):
    def test_step(self, batch, batch_idx):
        self(batch[0])


class Validated(Grows):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.insert(at=0)

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class GrowsIn(Callback):
    """Adds a neck in the second epoch."""

    def __init__(self, hook):
        setattr(self, hook, self.grow)

    def grow(self, trainer, pl_module, *args):
        if trainer.current_epoch == 1 and len(pl_module.necks) == 0:
            pl_module.add_neck()


def in_training(module):
    return [name for name, part in module.named_modules() if part.training]


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_start", "on_validation_batch_end"])
def test_growth_within_a_validation_keeps_the_statistics_of_frozen_norms(hook):
    net, keep = Validated(), KeepBytes()
    freeze = ProgressiveFreeze([("rest", 0, 0.0, 1.0, -1)])
    fit(net, [freeze, GrowsIn(hook), keep], validation=loader(3, shuffle=False))
    assert len(net.necks) == 1
    assert moved(keep.epochs[0], keep.epochs[-1], "body", "patches") == set()


def test_a_thaw_by_growth_at_the_end_of_a_validation_puts_norms_back_in_training():
    net = Validated()
    freeze = ProgressiveFreeze([("rest", 0, 0.0, 1.0, -1), ("thaw", 2, 1.0, 1.0, 0)], unit="generation")
    see = See(lambda trainer, module: (module.patches[0][1].training, module.patches[0][1].weight.requires_grad))
    fit(net, [freeze, GrowsIn("on_validation_end"), see], validation=loader(1, shuffle=False))
    assert [set(see.in_epoch(epoch)) for epoch in range(4)] == [{(False, False)}] * 2 + [{(True, True)}] * 2


def test_norms_follow_eval_when_the_fit_is_over():
    class Evaluates(Callback):
        def on_train_end(self, trainer, pl_module):
            pl_module.eval()

    module = WithTest()
    trainer = fit(module, [ProgressiveFreeze(REST), Evaluates()], epochs=2)
    assert in_training(module) == []
    module.train()
    assert in_training(module) == [name for name, _ in module.named_modules()]
    for mode in (False, True):
        module.train(mode)
        before = in_training(module)
        trainer.test(module, loader(1, shuffle=False), verbose=False)
        assert in_training(module) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_made_in_a_frozen_phase_is_trained_as_any_other_module(copied):
    class Copies(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 6:
                pl_module.trainer = None
                self.copy = copied(pl_module)
                pl_module.trainer = trainer

    module, copies = Normed(optimizer=partial(torch.optim.AdamW, lr=0.01)), Copies()
    fit(module, [ProgressiveFreeze(REST), copies], epochs=3)
    flags, mode = See(trainable), See(modes)
    assert trainable(None, copies.copy) == parameters(module, "body.5", "head")
    fit(copies.copy, [ProgressiveFreeze(THAW), flags, mode], epochs=2)
    assert flags.in_epoch(0)[0] == parameters(module, "body", "head")
    assert flags.in_epoch(1)[0] == parameters(module, "body.5", "head")
    assert mode.in_epoch(0)[0] == [True] * 5
    assert mode.in_epoch(1)[0] == [False] * 3 + [True] * 2


class OwnNorm(nn.Module):
    """A norm layer that is none of torch's."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        if self.training:
            self.running_var = 0.9 * self.running_var + 0.1 * x.detach().var(0)
        return self.scale * x / self.running_var.sqrt()


@pytest.mark.parametrize("norm", ["eval", "train"])
def test_spectral_norms_and_norms_that_are_not_from_torch_are_held_too(norm):
    module, keep = Plain(), KeepBytes()
    module.body[0] = parametrizations.spectral_norm(module.body[0])
    module.body[3] = nn.utils.spectral_norm(module.body[3])
    module.body[4] = OwnNorm(8)
    fit(module, [ProgressiveFreeze([("rest", 0, 0.0, 1.0, -1)], norm=norm), keep], epochs=2)
    gather = {f"body.0.parametrizations.weight.0._{vector}" for vector in "uv"} | {"body.3.weight_u", "body.3.weight_v"}
    assert moved(keep.epochs[0], keep.epochs[-1], "body") - {"body.3.weight"} == (
        set() if norm == "eval" else gather | {"body.4.running_var"}
    )


def test_the_frozen_components_are_known_after_the_fit():
    module = Normed()
    trainer = fit(module, [ProgressiveFreeze(REST)], epochs=2)
    module.freeze()
    assert Driver.of(trainer).frozen.components == {"body.0", "body.1"}


@pytest.mark.filterwarnings("ignore:.*(Lazy modules are a new feature|uninitialized|contains an uninitialized)")
def test_lazy_modules_are_frozen_before_they_know_their_shape():
    module, flags = Plain(), See(trainable)
    module.body = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(8, 8))
    fit(module, [ProgressiveFreeze(FROZEN), flags], epochs=1)
    assert set(map(frozenset, flags.in_epoch(0))) == {frozenset(parameters(module, "body.3", "head"))}


class EpochToggled(Grows):
    """One optimizer in each epoch, toggled from its start to its end."""

    automatic_optimization = False

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.toggle_optimizer(self.optimizers()[0])

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[0]
        optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.untoggle_optimizer(self.optimizers()[0])

    def configure_optimizers(self):
        return [torch.optim.SGD(part, lr=0.1) for part in (self.parameters(), self.head.parameters())]


def test_growth_while_an_optimizer_is_toggled():
    net, flags, keep = EpochToggled(), See(trainable), KeepBytes()
    net.insert(at=0)
    fit(net, [ProgressiveFreeze(THAW), GrowEvery("insert", 2, limit=1, arguments={"at": 1}), flags, keep], epochs=5)
    assert len(net.patches) == 2
    assert flags.in_epoch(2)[-1] == parameters(net, "body.4", "head")
    assert flags.in_epoch(4)[-1] == parameters(net, "")
    assert moved(keep.epochs[1], keep.epochs[3], "body.0", "body.3", "patches.0") == set()


class Prunes(Grows):
    @growth()
    def widen_first(self, width: int):
        widen(self.body[0], self.body[3], width)


@pytest.mark.parametrize("between", ["pruned", "widened", "copied"])
def test_a_frozen_part_that_is_changed_between_two_fits_is_trained_again(between):
    net, flags = Prunes(), See(trainable)
    net.insert(at=0)
    fit(net, [ProgressiveFreeze(REST)], epochs=2)
    if between == "pruned":
        prune.l1_unstructured(net.body[0], "weight", 0.5)
    elif between == "widened":
        net.widen_first(width=12)
    else:
        net.copy_first()
    fit(net, [ProgressiveFreeze(THAW), flags], epochs=1)
    assert flags.in_epoch(0)[0] == parameters(net, "")


def test_work_is_counted_when_a_part_is_removed_within_the_epoch():
    class Drops(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                del pl_module.aside

    module, see = Normed(), See(lambda trainer, module: Driver.of(trainer).frozen.work)
    module.aside = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fit(module, [ProgressiveFreeze(REST), Drops(), see], epochs=3)
    assert 0 < see.in_epoch(2)[-1] < 1
