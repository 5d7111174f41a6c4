"""What people do with optimizers, groups and schedulers of their own comes out as without us, to the last bit."""

from collections import defaultdict

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR, LambdaLR, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from helpers import Half, Net, Plain, assert_same, fit, loader, unfelt, weights
from structurenet_pl import GrowEvery, growth, widen
from structurenet_pl.lightning import MisconfigurationException


class Kept(Plain):
    """Keeps the optimizer, a group and the list of groups by reference, and whatever was read of them."""

    def configure_optimizers(self):
        self.o = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        self.kept, self.groups, self.read = self.o.param_groups[0], self.o.param_groups, []
        return self.o


class OneCycle(Kept):
    """A scheduler with a list by group, of fewer entries than there are pieces of one group."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.scheduler = OneCycleLR(optimizer, 0.5, total_steps=13)
        return optimizer

    def on_train_batch_end(self, *args):
        self.scheduler.step()


class Chained(OneCycle):
    def configure_optimizers(self):
        optimizer = Kept.configure_optimizers(self)
        self.scheduler = ChainedScheduler([ConstantLR(optimizer, 0.1, 4), ExponentialLR(optimizer, 0.9)])
        return optimizer


class BoundMethod(OneCycle):
    def configure_optimizers(self):
        optimizer = Kept.configure_optimizers(self)
        self.advance = ExponentialLR(optimizer, 0.9).step
        return optimizer

    def on_train_batch_end(self, *args):
        self.advance()


class InASubmodule(OneCycle):
    def configure_optimizers(self):
        optimizer = Kept.configure_optimizers(self)
        self.head.schedule = ExponentialLR(optimizer, 0.9)
        return optimizer

    def on_train_batch_end(self, *args):
        self.head.schedule.step()


class Slotted:
    """A scheduler without a ``__dict__``."""

    __slots__ = ("bases", "count", "target")

    def __init__(self, optimizer):
        self.target, self.count = optimizer, 0
        self.bases = [group["lr"] for group in optimizer.param_groups]

    def step(self):
        self.count += 1
        for group, base in zip(self.target.param_groups, self.bases, strict=True):
            group["lr"] = base * 0.9**self.count


class InSlots(OneCycle):
    def configure_optimizers(self):
        optimizer = Kept.configure_optimizers(self)
        self.scheduler = Slotted(optimizer)
        return optimizer


class ADict(Kept):
    """A dict with the optimizer and a counter stays one dict."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.context = self.alias = {"optimizer": optimizer, "steps": 0}
        return optimizer

    def on_train_batch_end(self, *args):
        self.context["steps"] += 1
        self.read.append(self.alias["steps"])


class WritesLate(Kept):
    """Writes to its group in the last hook before the update."""

    def on_before_optimizer_step(self, optimizer):
        self.kept["lr"] = 0.01 * (1 + self.global_step)


class WritesLater(Kept):
    def configure_gradient_clipping(self, *args, **kwargs):
        self.kept["lr"] = 0.01 * (1 + self.global_step)


class DecaySchedule(Kept):
    """Schedules the weight decay of its own groups, which a callback has written to the pieces."""

    def on_after_backward(self):
        for group in self.o.param_groups:
            group["weight_decay"] *= 0.5


class DecayBack(Kept):
    def on_train_batch_end(self, *args):
        for group in self.o.param_groups:
            group["weight_decay"] = 0.01


class WritesDecay(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for group in trainer.optimizers[0].param_groups:
            group["weight_decay"] = 0.1 * (1 + batch_idx)


class Backbone(Kept):
    """The head comes later, by one way or another."""

    def configure_optimizers(self):
        self.o = torch.optim.SGD(self.body.parameters(), lr=0.1)
        self.kept, self.groups, self.read = self.o.param_groups[0], self.o.param_groups, []
        return self.o

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.join(list(self.head.parameters()))


class Extends(Backbone):
    def join(self, params):
        self.kept["params"].extend(params)


class Appends(Backbone):
    def join(self, params):
        self.o.param_groups.append({**self.kept, "params": params})


class AppendsToTheList(Backbone):
    def join(self, params):
        self.groups.append({**self.kept, "params": params})


class ExtendsAPiece(Backbone):
    def join(self, params):
        self.trainer.optimizers[0].param_groups[0]["params"].extend(params)

    def on_train_end(self):
        self.read = [group["params"] for group in self.trainer.optimizers[0].state_dict()["param_groups"]]


class Compares(Kept):
    """Knows its optimizer when it sees it."""

    def on_before_optimizer_step(self, optimizer):
        if optimizer is self.o:
            for parameter in self.parameters():
                parameter.grad.mul_(0.5)


class GoesBack(Kept):
    """Takes turns between optimizers, one of which it keeps."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.trainer.strategy.optimizers = [torch.optim.Adam(self.parameters(), lr=0.01)]
        if self.current_epoch == 2:
            self.trainer.strategy.optimizers = [self.o]


class ThrowsAway(Kept):
    """Takes a step with an optimizer that nobody sees again."""

    def on_train_start(self):
        other = torch.optim.SGD(self.parameters(), lr=0.001)
        nn.functional.cross_entropy(self(torch.ones(4, 6)), torch.zeros(4).long()).backward()
        other.step()
        self.zero_grad()


class ByHandWithAScaler(Kept):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        scaler, raw = torch.amp.GradScaler("cpu"), self.optimizers(use_pl_optimizer=False)
        raw.zero_grad()
        scaler.scale(nn.functional.cross_entropy(self(batch[0]), batch[1])).backward()
        scaler.unscale_(self.o)
        scaler.step(raw)
        scaler.update()


class Empty(torch.optim.SGD):
    """Is false."""

    def __len__(self):
        return 0


class KeepsAnEmptyOne(Kept):
    def configure_optimizers(self):
        self.o, self.read = Empty(self.parameters(), 0.1), []
        return self.o


class Loop:
    """Cannot be looked into as other objects."""

    __slots__ = ()

    def __getattr__(self, name):
        raise KeyError(name)


class LazyDict(dict):
    def values(self):
        raise RuntimeError("imports the world")


class Odd(Kept):
    """Keeps what goes round in circles, and what cannot be asked for its attributes."""

    def __init__(self):
        super().__init__()
        self.tree = {"children": []}
        self.tree["children"].append({"parent": self.tree})
        self.odd = [Loop(), LazyDict(a=1)]
        self.head.above = [self]


IDIOMS = [
    *[OneCycle, Chained, BoundMethod, InASubmodule, InSlots, ADict, WritesLate, WritesLater, Extends, Appends],
    *[AppendsToTheList, ExtendsAPiece, Compares, GoesBack, ThrowsAway, ByHandWithAScaler, KeepsAnEmptyOne, Odd],
]


class Used(Callback):
    """The settings of each parameter when an optimizer that Lightning knows really steps."""

    def __init__(self):
        self.rows = []

    def on_fit_start(self, trainer, pl_module):
        def look(optimizer, args, kwargs):
            if not any(optimizer is known for known in trainer.optimizers):
                return
            names = {parameter: name for name, parameter in pl_module.named_parameters()}
            self.rows.append(
                {
                    names[parameter]: (float(group["lr"]), group["weight_decay"])
                    for group in optimizer.param_groups
                    for parameter in group["params"]
                }
            )

        self.hook = register_optimizer_step_pre_hook(look)

    def teardown(self, trainer, pl_module, stage):
        self.hook.remove()


def trained(kind, callbacks, others=()):
    torch.manual_seed(0)
    module, used = kind(), Used()
    fit(module, [*callbacks, *others, used], epochs=3, data=loader(shuffle=False))
    return module, used.rows


@pytest.mark.parametrize("kind", IDIOMS)
def test_it_comes_out_as_without_us(kind):
    alone, rows = trained(kind, [])
    with_us, same_rows = trained(kind, unfelt())
    assert_same(weights(with_us), weights(alone))
    assert same_rows == rows
    assert with_us.read == alone.read


@pytest.mark.parametrize("kind", [DecaySchedule, DecayBack])
def test_weight_decay_that_two_write(kind):
    alone, rows = trained(kind, [], [WritesDecay()])
    with_us, same_rows = trained(kind, unfelt(), [WritesDecay()])
    assert_same(weights(with_us), weights(alone))
    assert same_rows == rows


@pytest.mark.parametrize("kind", [kind for kind in IDIOMS if kind not in (ByHandWithAScaler,)])
def test_a_factor_acts_once(kind):
    """Nothing compounds, wherever a scheduler is kept."""
    _, rows = trained(kind, [])
    _, halved = trained(kind, [Half()])
    assert halved == [{name: (lr / 2, decay) for name, (lr, decay) in row.items()} for row in rows]


class ByPosition(torch.optim.Optimizer):
    """Zips its groups with a list that has an entry for each."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})
        self.base_lrs = [group["lr"] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for group, base in zip(self.param_groups, self.base_lrs, strict=False):
            for parameter in group["params"]:
                parameter.sub_(group["lr"] / base * 0.1 * parameter.grad)
        return loss


def test_an_optimizer_with_a_list_by_group_and_two_groups():
    def two(params):
        params = list(params)
        return ByPosition([{"params": params[:4]}, {"params": params[4:], "lr": 0.05}])

    def train(callbacks):
        torch.manual_seed(0)
        module = Plain(optimizer=two)
        fit(module, callbacks, epochs=2, data=loader(shuffle=False))
        return weights(module)

    assert_same(train(unfelt()), train([]))


class Alternating(Plain):
    """Two optimizers take turns, the Trainer's list of which is set anew."""

    def configure_optimizers(self):
        pair = torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.01)
        self.pair, self.read = lambda: pair, []
        return pair[0]

    def on_train_epoch_start(self):
        self.trainer.strategy.optimizers = [self.pair()[self.current_epoch % 2]]

    def on_train_batch_end(self, *args):
        self.read.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self):
        groups = self.trainer.optimizers[0].state_dict()["param_groups"]
        self.saved = [(group["lr"], len(group["params"])) for group in groups]


def test_optimizers_that_take_turns():
    modules = [Alternating(), Alternating()]
    fit(modules[0], [], epochs=3)
    fit(modules[1], [Half()], epochs=3)
    assert modules[1].read == [lr / 2 for lr in modules[0].read]
    assert modules[1].saved == modules[0].saved == [(0.1, 8)]


def test_groups_that_are_replaced_by_copies_are_refused():
    class Replaces(Kept):
        def on_train_batch_end(self, *args):
            optimizer = self.trainer.optimizers[0]
            optimizer.param_groups = [dict(group) for group in optimizer.param_groups]

    with pytest.raises(MisconfigurationException, match="were removed or replaced during the fit"):
        fit(Replaces(), [Half()], epochs=2)


class Wide(Net):
    """Its body can be widened."""

    def __init__(self, optimizer, units=8):
        super().__init__(optimizer=optimizer)
        self.body = nn.Sequential(nn.Linear(6, units), nn.ReLU(), nn.Identity(), nn.Linear(units, 8))

    @growth()
    def wider(self):
        widen(self.body[0], self.body[3], 12)


class Own(torch.optim.Optimizer):
    """Descends by what a subclass makes of a gradient."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01})
        self.momenta = {}

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        parameters = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        for index, (group, parameter) in enumerate(parameters):
            parameter.sub_(group["lr"] * self.update(group, parameter, index))
        return loss


class ByRow(Own):
    """A number for each row, of which there may be one."""

    def update(self, group, parameter, index):
        row = self.state[parameter].setdefault("row", torch.zeros(len(parameter)))
        row.mul_(0.9).add_(parameter.grad.reshape(len(parameter), -1).square().mean(1))
        return parameter.grad / (1 + row.reshape(-1, *[1] * (parameter.ndim - 1)))


class Counts(Own):
    """Keeps a defaultdict."""

    def update(self, group, parameter, index):
        self.state[parameter].setdefault("seen", defaultdict(int))[len(parameter)] += 1
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        return momentum.mul_(0.9).add_(parameter.grad)


@pytest.mark.parametrize(("kind", "units"), [(ByRow, 1), (ByRow, 8), (Counts, 8)])
@pytest.mark.filterwarnings("ignore:.*was tried with two lrs", "ignore:.*starts anew")
def test_odd_state_follows_a_widening(kind, units):
    net = Wide(kind, units)
    trainer = fit(net, [Half(), GrowEvery("wider", 1, limit=1)], epochs=3)
    state = trainer.optimizers[0].state
    assert state.keys() == set(net.parameters())
    if kind is ByRow:
        assert all(len(state[parameter]["row"]) == len(parameter) for parameter in net.parameters())
    else:
        assert all(type(state[parameter]["seen"]) is defaultdict for parameter in net.parameters())


class ByIndex(Own):
    def update(self, group, parameter, index):
        return self.momenta.setdefault(index, torch.zeros_like(parameter)).mul_(0.9).add_(parameter.grad)


class ByParameter(Own):
    def update(self, group, parameter, index):
        return self.momenta.setdefault(parameter, torch.zeros_like(parameter)).mul_(0.9).add_(parameter.grad)


@pytest.mark.parametrize("kind", [ByIndex, ByParameter])
def test_state_outside_of_the_state_refuses_a_widening(kind):
    with pytest.raises(ValueError, match="outside of its state, in its groups or attributes"):
        fit(Wide(kind), [Half(), GrowEvery("wider", 1, limit=1)], epochs=3)


class InGroups(Own):
    """Keeps a list of tensors in each group, made with it."""

    def __init__(self, params):
        super().__init__(params)
        for group in self.param_groups:
            group["momenta"] = [torch.zeros_like(parameter) for parameter in group["params"]]


class OfItsOwn(torch.optim.SGD):
    """A state dict that knows no hooks."""

    def state_dict(self):
        groups = [{**group, "params": [0] * len(group["params"])} for group in self.param_groups]
        return {"state": {}, "param_groups": groups}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (InGroups, "keeps tensors of its parameters in its param groups"),
        (lambda params: OfItsOwn(params, 0.1), "calls none of torch's hooks"),
    ],
)
def test_what_cannot_be_split_is_refused(make, message):
    with pytest.raises(MisconfigurationException, match=message):
        fit(Plain(optimizer=make), [Half()], epochs=1)


@pytest.mark.parametrize("lr", [0.25, 1])
def test_lrs_in_tensors(lr):
    """An integer one becomes a number that can be halved."""

    def optimizer(params):
        return torch.optim.SGD(params, lr=torch.tensor(lr), foreach=False)

    used = Used()
    fit(Plain(optimizer=optimizer, scheduler=lambda o: LambdaLR(o, lambda epoch: 1.0)), [Half(), used], epochs=1)
    assert {value for row in used.rows for value, _ in row.values()} == {lr / 2}
