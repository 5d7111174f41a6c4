"""Base lrs live in the user's own groups: what is written there, or to all pieces of one, is as in plain torch."""

import csv

import pytest
import pytorch_warmup
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.optim import lr_scheduler as schedulers

from helpers import (
    BATCHES,
    FlatPlain,
    Half,
    LRTrace,
    Net,
    Plain,
    assert_same,
    fit,
    loader,
    slow_but_for,
    unfelt,
    weights,
)
from recipes import EPOCHS, NESTED_SCHEDULERS, SCHEDULERS, ignore_warnings_of_torch
from structurenet_pl import GrowEvery, LRFactor


def used(callbacks=(), make=Plain, trace=None, **kwargs):
    """The lrs of all steps, each once, and the weights at the end."""
    torch.manual_seed(0)
    module, trace = make(), trace or LRTrace()
    fit(module, [*callbacks, trace], data=loader(shuffle=False), **kwargs)
    return [sorted(set(row.values())) for row in trace.rows], weights(module)


# ------------------------------------------------------------------------------------------------------ writes by hand


def writes(hook, steps, lr=lambda step: 0.0123 * (1 + step)):
    """A callback that sets all lrs in a hook at some steps."""
    count = iter(range(10_000))

    def write(self, trainer, *args):
        step = next(count)
        for group in trainer.optimizers[0].param_groups if step in steps else ():
            group["lr"] = lr(step)

    return type("Writes", (Callback,), {hook: write})()


HOOKS = ["on_train_batch_start", "on_before_zero_grad", "on_before_optimizer_step", "on_train_batch_end"]


@ignore_warnings_of_torch
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", [*SCHEDULERS, *NESTED_SCHEDULERS])
@pytest.mark.parametrize("steps", slow_but_for([{4}], [{0}, {3}, {4}, {7, 8, 9}, set(range(12))]), ids=str)
def test_written_by_hand_before_a_scheduler_as_in_plain_torch(name, interval, steps):
    """In the first hook of a batch, in the last, and in between: recursive schedulers go on from what was written."""
    hook = HOOKS[(len(name) + min(steps)) % len(HOOKS)]
    scheduler = (SCHEDULERS | NESTED_SCHEDULERS)[name]

    def run(ours):
        callbacks = [*ours, writes(hook, steps)]
        return used(callbacks, lambda: FlatPlain(scheduler=scheduler, interval=interval), epochs=EPOCHS)

    assert_same(run(unfelt()), run([]))


class WarmsUp(FlatPlain):
    """As people write it: a few hundred steps by hand, then what the scheduler makes of it."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.trainer.global_step < 10:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (self.trainer.global_step + 1) / 10


@pytest.mark.parametrize("tensor", [False, True])
def test_a_warm_up_by_hand_before_a_plateau_scheduler(tensor):
    def make():
        lr = torch.tensor(0.1) if tensor else 0.1
        return WarmsUp(
            optimizer=lambda params: torch.optim.SGD(params, lr=lr, foreach=False),
            scheduler=lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
        )

    alone = used([], make, epochs=EPOCHS)
    assert alone[0][-1] < alone[0][10]
    assert_same(used(unfelt(), make, epochs=EPOCHS), alone)


class Sets(Callback):
    """Lrs of single pieces, by step and name."""

    def __init__(self, values):
        self.values = values

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.values.get(trainer.global_step, {}).get(group["name"], group["lr"])


@pytest.mark.filterwarnings("ignore:the lr of param group 'body.0' was set")
def test_what_is_written_to_single_pieces_stands_until_the_groups_lr_changes():
    trace = LRTrace()
    sets = Sets({1: {"head": 0.4, "body.0": 0.2}, 5: {"head": 0.7}})
    used([Half(), sets], lambda: Plain(scheduler=lambda it: schedulers.StepLR(it, 1, 0.1)), trace, epochs=3)
    head, first, other = ([row[name] for row in trace.rows] for name in ("head", "body.0", "body.3"))
    assert head == [0.05, 0.2, 0.2, 0.2, 0.1 * 0.1 / 2, 0.35, 0.35, 0.35] + [0.1 * 0.1 * 0.1 / 2] * 4
    assert first == [0.05, 0.1, 0.1, 0.1] + [0.1 * 0.1 / 2] * 4 + [0.1 * 0.1 * 0.1 / 2] * 4
    assert other == [0.05] * 4 + [0.1 * 0.1 / 2] * 4 + [0.1 * 0.1 * 0.1 / 2] * 4


@pytest.mark.filterwarnings("ignore:the lr of param group 'head' was set")
def test_what_was_written_to_single_pieces_is_in_the_checkpoint(tmp_path):
    def rows(epochs, sets, ckpt_path=None):
        trace = LRTrace()
        trainer = fit(Plain(), [Half(), sets, trace], epochs=epochs, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return trace.rows

    whole = rows(4, Sets({3: {"head": 0.4}}))
    rows(2, Sets({3: {"head": 0.4}}))
    assert torch.load(tmp_path / "last.ckpt")["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    assert rows(4, Sets({}), tmp_path / "last.ckpt") == whole[8:]
    assert whole[-1]["head"] == 0.2


class KeepsAGroup(Plain):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.kept = optimizer.param_groups[0]
        return optimizer

    def on_train_batch_start(self, batch, batch_idx):
        self.kept["lr"] = 0.01 * (1 + self.global_step)
        self.kept["momentum"] = 0.5 + 0.01 * self.global_step


class Momenta(LRTrace):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rows.append(
            {group.get("name", index): group["momentum"] for index, group in enumerate(optimizer.param_groups)}
        )


@pytest.mark.parametrize("trace", [LRTrace, Momenta])
def test_a_group_that_was_kept_by_reference_is_alive(trace, tmp_path):
    """Also after a resume, where plain torch has put other dicts in the place of the groups."""
    alone = used([], KeepsAGroup, trace())
    assert len({tuple(row) for row in alone[0]}) == 16
    assert_same(used(unfelt(), KeepsAGroup, trace()), alone)
    fit(KeepsAGroup(), unfelt(), epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = used(unfelt(), KeepsAGroup, trace(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed[0] == alone[0][8:]


def test_the_users_groups_follow_growth_and_their_lists_stay_the_same_objects():
    class Watches(Net):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            self.groups, self.tensors = optimizer.param_groups, optimizer.param_groups[0]["params"]
            return optimizer

        def on_train_batch_start(self, batch, batch_idx):
            (optimizer,) = self.trainer.optimizers
            (group,) = self.groups
            assert optimizer.param_groups is not self.groups
            assert group["params"] is self.tensors
            assert self.tensors == [tensor for piece in optimizer.param_groups for tensor in piece["params"]]
            assert set(self.tensors) == set(self.parameters())

    fit(Watches(), [Half(), GrowEvery("add_patch", 1, limit=2, arguments={"at": 0})], epochs=4)


def test_fit_start_copies_no_parameter(monkeypatch):
    def copied(tensor, memo):
        raise AssertionError("a parameter of shape", tensor.shape)

    def start():
        monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", copied)

    net = Net()
    net.on_fit_start = lambda: monkeypatch.undo()  # the callbacks' come before
    net.configure_optimizers, configure = lambda: (start(), configure())[1], net.configure_optimizers
    fit(net, [Half()], epochs=1)


def test_groups_that_others_add_are_groups_of_the_user():
    late = torch.nn.Parameter(torch.ones(1))

    class Adds(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [late], "lr": 0.3})
                (config,) = trainer.lr_scheduler_configs
                self.seen = [list(group["params"]) for group in config.scheduler.optimizer.param_groups]

    adds, trace = Adds(), LRTrace()
    fit(Plain(scheduler=lambda optimizer: schedulers.ExponentialLR(optimizer, 0.5)), [Half(), adds, trace], epochs=3)
    assert adds.seen[-1] == [late]
    assert [row.get("outside") for row in trace.rows[::4]] == [None, 0.3, 0.15]


# ------------------------------------------------------------------------------------------- warm-ups of pytorch_warmup


class Dampened(Plain):
    """The idiom of pytorch_warmup's manual."""

    def configure_optimizers(self):
        params = list(self.parameters())
        optimizer = torch.optim.AdamW([{"params": params[:3]}, {"params": params[3:], "lr": 0.02}], lr=0.01)
        self.cosine = schedulers.CosineAnnealingLR(optimizer, 20)
        self.warmup = pytorch_warmup.LinearWarmup(optimizer, 6)
        return optimizer

    def on_train_batch_end(self, *args):
        with self.warmup.dampening():
            self.cosine.step()


def test_dampening_of_pytorch_warmup():
    alone = used([], Dampened)
    assert len({tuple(row) for row in alone[0]}) == 16
    assert_same(used(unfelt(), Dampened), alone)
    halved, _ = used([Half()], Dampened)
    assert halved == [[0.5 * lr for lr in row] for row in alone[0]]


# ------------------------------------------------------------------------------------------ schedulers made in mid-fit


class Constant(FlatPlain):
    """Its scheduler is to be replaced."""

    def __init__(self):
        super().__init__(scheduler=lambda optimizer: schedulers.ConstantLR(optimizer, 1.0, 20))


class MadeLate(Callback):
    """Replaces the schedulers of the Trainer, as StochasticWeightAveraging does, or steps one of its own."""

    def __init__(self, make, own):
        self.make, self.own = make, own

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            made = self.make(trainer.optimizers[0])
            if self.own:
                self.mine = made
            else:
                (config,) = trainer.lr_scheduler_configs
                config.scheduler = made
                config.reduce_on_plateau = isinstance(made, schedulers.ReduceLROnPlateau)

    def on_train_batch_end(self, trainer, *args):
        if self.own and trainer.current_epoch >= 2:
            self.mine.step(*([1.0] if isinstance(self.mine, schedulers.ReduceLROnPlateau) else []))


@ignore_warnings_of_torch
@pytest.mark.parametrize("own", slow_but_for([True], [False, True]))
@pytest.mark.parametrize("name", [*SCHEDULERS, *NESTED_SCHEDULERS])
def test_schedulers_made_in_mid_fit(name, own):
    """They see pieces when they are made, and the user's groups from the next batch on."""
    makers = SCHEDULERS | NESTED_SCHEDULERS
    # a list of settings has to have an entry for each group, and there it is the pieces that are seen
    makers["ReduceLROnPlateau"] = lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0, min_lr=0.001)
    runs = [used([*ours, MadeLate(makers[name], own)], Constant, epochs=EPOCHS) for ours in ([], unfelt())]
    assert_same(runs[1], runs[0])


@pytest.mark.parametrize("own", [False, True])
def test_a_scheduler_made_in_mid_fit_takes_the_base_lr_for_its_base(own):
    late = MadeLate(lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 7, eta_min=0.01), own)
    alone, _ = used([late], Constant, epochs=EPOCHS)
    halved, _ = used([Half(), MadeLate(late.make, own)], Constant, epochs=EPOCHS)
    assert len({tuple(row) for row in alone}) > 4
    assert halved == [[0.5 * lr for lr in row] for row in alone]


def test_a_scheduler_made_on_a_stand_in_steps_the_optimizer_itself():
    """Torch wraps the step of an optimizer when a scheduler is made on it, and would call it with the stand-in."""

    class MakesOne(Dampened):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            self.warmup = pytorch_warmup.LinearWarmup(optimizer, 6)
            return optimizer

        def on_train_start(self):
            self.cosine = schedulers.CosineAnnealingLR(self.warmup.optimizer, 20)

    torch.manual_seed(0)
    seen = []

    class Looks(MakesOne):
        def on_train_start(self):
            super().on_train_start()
            self.trainer.optimizers[0].register_step_post_hook(lambda optimizer, *args: seen.append(optimizer))

    by_hand = Half()
    module = Looks()
    trainer = fit(module, [by_hand], data=loader(shuffle=False), epochs=2)
    assert module.cosine.optimizer is trainer.optimizers[0]
    torch.manual_seed(0)
    halved = MakesOne()

    class Halves(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.lr = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = self.lr / 2

        def on_train_batch_end(self, trainer, *args):
            trainer.optimizers[0].param_groups[0]["lr"] = self.lr

    fit(halved, [Halves()], data=loader(shuffle=False), epochs=2)
    assert_same(weights(module), weights(halved))


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR", "SWALR"])
def test_an_optimizer_that_is_used_in_a_second_fit(name):
    """Schedulers that were made on it between the fits saw its pieces."""

    class Again(Plain):
        def configure_optimizers(self):
            if not hasattr(self, "optimizer"):
                self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [self.optimizer], [{"scheduler": SCHEDULERS[name](self.optimizer), "interval": "step"}]

    def rows(ours):
        module, trace = Again(), LRTrace()
        fit(module, [*ours(), trace], epochs=2)
        fit(module, [*ours(), trace], epochs=2)
        return [set(row.values()) for row in trace.rows]

    assert rows(unfelt) == rows(list)


# ------------------------------------------------------------------------------------------------- LearningRateMonitor


@pytest.mark.filterwarnings("ignore:You are using LearningRateMonitor callback with models")
@pytest.mark.parametrize("scheduled", [False, True])
def test_lightnings_monitor_shows_effective_lrs_by_component(scheduled):
    class Falls(LRFactor):
        def factor(self, component, now):
            return 1 / (1 + now.clock.step + component.depth)

    scheduler = (lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9)) if scheduled else None
    logger, trace = CSVLogger("logs", name=None, version=str(scheduled)), LRTrace()
    callbacks = [Falls(), GrowEvery("add_neck", 1, limit=1), trace, LearningRateMonitor("step", log_momentum=True)]
    fit(Net(scheduler=scheduler, interval="step"), callbacks, epochs=3, logger=logger, log_every_n_steps=1)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]
    lrs = [{tag[7:]: lr for tag, lr in row.items() if tag[:7] == "lr-SGD/" and "mom" not in tag} for row in rows]
    assert [row for row in lrs if row] == trace.rows
    assert any("lr-SGD/necks.0-momentum" in row for row in rows)


# --------------------------------------------------------------------------------------------------- wrapped optimizers


class OwnList(torch.optim.Optimizer):
    """pytabkit's idiom: the dicts are shared, the list is not."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


class Hides(OwnList):
    """Groups of its own, and nobody can see what it steps."""

    def __init__(self, inner):
        torch.optim.Optimizer.__init__(self, [dict(group) for group in inner.param_groups], {})
        self.inner = lambda closure: inner.step(closure)

    def step(self, closure=None):
        return self.inner(closure)


class Writes(OwnList):
    """Sets the lr itself, between us and the update."""

    def step(self, closure=None):
        loss = closure()
        for group in self.inner.param_groups:
            group["lr"] = 0.3
        self.inner.step()
        return loss


def wrapped(kind):
    class Wrapped(Net):
        def configure_optimizers(self):
            return kind(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9))

    return Wrapped


def test_a_wrapper_with_a_list_of_its_own_follows():
    alone = used([], wrapped(lambda inner: inner))
    assert_same(used(unfelt(), wrapped(OwnList)), alone)
    plain = used([Half(), GrowEvery("add_neck", 2, limit=1)], wrapped(lambda inner: inner))
    assert_same(used([Half(), GrowEvery("add_neck", 2, limit=1)], wrapped(OwnList)), plain)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Hides, r"Hides has SGD step on param groups of its own"),
        (Writes, r"Writes writes lrs before it steps SGD: the lr of 'body.0' was 0.3"),
    ],
)
def test_what_cannot_be_followed_is_seen_at_the_first_step(kind, message):
    trace = LRTrace()
    with pytest.raises(Exception, match=message):
        used([Half()], wrapped(kind), trace)
    assert len(trace.rows) <= 1


def test_there_are_hooks_for_all_optimizers_in_the_first_update_only():
    from torch.optim import optimizer as module

    counts = []

    class Counts(Callback):
        def on_train_batch_start(self, *args):
            counts.append(len(module._global_optimizer_pre_hooks) + len(module._global_optimizer_post_hooks))

    class Stepping(Plain):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_step_post_hook(lambda *args: during.append(len(module._global_optimizer_post_hooks)))
            return optimizer

    during = []
    fit(Stepping(), [Half(), Counts()], epochs=1)
    assert during == [1] + [0] * (BATCHES - 1)
    assert counts == [0] * BATCHES
