"""Updates of slow cohorts: which factor each has, and every way in which an optimizer is stepped."""

import copy
import importlib

import pytest
import pytorch_optimizer
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from helpers import assert_same, fit, loader
from references import find_timm
from structurenet_pl import (
    AgeDecay,
    GrowableModule,
    GrowEvery,
    GrowthResponder,
    LARSScaler,
    LRFactor,
    ProgressiveFreeze,
    RoleLR,
    Warmup,
    came_from,
    growth,
    widen,
)
from structurenet_pl.learning_rates.cohort_updates import CohortUpdates
from structurenet_pl.learning_rates.lr_table import table_of


class Wide(GrowableModule):
    """Two layers, of which the first is widened from 4 to 6 units."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)
        self.make_optimizer = optimizer or (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))

    def forward(self, x):
        return self.second(self.first(x).tanh())

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0].to(self.first.weight.dtype)), batch[1])

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())

    @growth()
    def wider(self, width: int = 6):
        widen(self.first, self.second, width, noise=0.1)

    @growth(role="new")
    def wider_new(self, width: int = 6):
        widen(self.first, self.second, width, noise=0.1)


class Own(LRFactor):
    """A function of the birth, from the first growth on."""

    def __init__(self, old=1.0, new=1.0, where=None):
        super().__init__(where)
        self.old, self.new = old, new

    def factor(self, component, now):
        if not now.log:
            return 1.0
        return self.new if component.born.generation else self.old


class Moved(Callback):
    """How far the entries have moved in the last epoch, by name of the tensor."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.start = {name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()}

    def on_train_end(self, trainer, pl_module):
        self.by = {name: tensor.detach() - self.start[name] for name, tensor in pl_module.named_parameters()}


def grow(method="wider", **kwargs):
    return GrowEvery(method, 1, limit=1, **kwargs)


def one_step(callbacks, make=Wide, method="wider", **kwargs):
    """What the first step after a widening has moved."""
    torch.manual_seed(0)
    module, moved = make(), Moved()
    fit(module, [grow(method), *callbacks, moved], 2, data=loader(1), **kwargs)
    return moved.by


def assert_ratio(by, whole, old, new):
    """The first layer has moved by shares of its movement without factors."""
    for name in ("first.weight", "first.bias"):
        torch.testing.assert_close(by[name][:4], old * whole[name][:4], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(by[name][4:], new * whole[name][4:], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(by["second.weight"][:, :4], old * whole["second.weight"][:, :4], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(by["second.weight"][:, 4:], new * whole["second.weight"][:, 4:], rtol=1e-4, atol=1e-7)


@pytest.fixture
def whole():
    return one_step([])


FACTORS = {
    "slow old": ([Own(old=0.5)], "wider", 0.5, 1.0),
    "slow new": ([Own(new=0.25)], "wider", 1.0, 0.25),
    "fast new": ([Own(new=3.0)], "wider", 1.0, 3.0),
    "old stand still": ([Own(old=0.0)], "wider", 0.0, 1.0),
    "new stand still": ([Own(new=0.0)], "wider", 1.0, 0.0),
    "all stand still": ([Own(0.0, 0.0)], "wider", 0.0, 0.0),
    "product": ([Own(old=0.5), Own(0.5, 0.5), Own(new=0.1)], "wider", 0.25, 0.05),
    "role of the event": ([RoleLR({"new": 0.3})], "wider_new", 1.0, 0.3),
    "no role": ([RoleLR({"new": 0.3})], "wider", 1.0, 1.0),
    "where role": ([Own(0.5, 0.5, where="new")], "wider_new", 1.0, 0.5),
    "where name": ([Own(0.5, 0.2, where=["first", "second"])], "wider_new", 0.5, 0.2),
    "warm-up": ([Warmup(4, unit="epoch")], "wider", 1.0, 0.25),
    "age": ([AgeDecay(0.5)], "wider", 0.5, 1.0),
    "response": ([GrowthResponder(grown=0.9, adjacent=0.6, distant=0.1)], "wider", 0.6, 0.9),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factor_of_a_cohort(name, whole):
    callbacks, method, old, new = FACTORS[name]
    by = one_step(copy.deepcopy(callbacks), method=method)
    assert_ratio(by, whole, old, new)
    if old == 0:
        assert not by["first.weight"][:4].any()
    if new == 0:
        assert not by["first.weight"][4:].any()
    both_old = name != "response"
    assert torch.allclose(by["second.bias"], (old if both_old else 0.6) * whole["second.bias"])


def test_group_has_the_lr_of_the_fastest_cohort():
    module = Wide()
    trainer = fit(module, [grow(), Own(0.5, 0.2)], 2)
    assert {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups} == {
        "first": 0.05,
        "second": 0.05,
    }


class Until(LRFactor):
    """Old entries are slow in some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def factor(self, component, now):
        return 0.5 if component.founding and now.clock.epoch in self.epochs else 1.0


@pytest.mark.parametrize("factors", [[], [Own()], [Own(0.5, 0.5)], [Own(0.0, 0.0)]])
def test_equal_cohorts_cost_nothing(factors, monkeypatch):
    """No hook more than without growth, no plan and no copy."""

    class Hooks(Callback):
        def __init__(self):
            self.numbers = set()

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.numbers.add((len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)))
            updates = table_of(optimizer).cohort_updates
            assert updates._parts == []
            assert not updates.kept

    monkeypatch.setattr(CohortUpdates, "_plan", None)
    hooks, without = Hooks(), Hooks()
    fit(Wide(), [grow(), *factors, hooks], 3)
    fit(Wide(), [*factors, without], 3)
    assert hooks.numbers == without.numbers


def test_copies_only_while_a_cohort_is_slow(monkeypatch):
    kept, scale = [], CohortUpdates.scale

    def noting(updates):
        kept.append(sum(before.numel() for _, before, _ in updates.kept or ()))
        scale(updates)

    monkeypatch.setattr(CohortUpdates, "scale", noting)
    fit(Wide(), [grow(), Until({2})], 4, data=loader(1))
    old = 4 * 6 + 4 + 3 * 4 + 3
    assert kept == [old]


def test_infinite_gradient_elsewhere_does_no_harm():
    class Inf(Wide):
        def on_before_optimizer_step(self, optimizer):
            if self.current_epoch == 1:
                self.first.weight.grad[4:] = float("inf")
                self.first.weight.grad[:4] = float("nan")

    by = one_step([Own(new=0.0)], make=Inf)
    assert not by["first.weight"][4:].any()
    by = one_step([Own(old=0.0)], make=Inf)
    assert not by["first.weight"][:4].any()
    assert not torch.isfinite(by["first.weight"][4:]).any()


class FreezeOld(Own):
    freezes = True


class FreezeByEpoch(LRFactor):
    """Old entries of the first layer rest in epoch 1, all entries in epoch 2."""

    freezes = True

    def factor(self, component, now):
        return 0.0 if now.clock.epoch == 2 or (now.clock.epoch == 1 and component.founding) else 1.0


class Flags(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((pl_module.first.weight.requires_grad, pl_module.second.weight.requires_grad))


def test_true_freeze_only_if_all_cohorts_are_zero():
    flags, module, keep = Flags(), Wide(), Moved()
    fit(module, [grow(), FreezeByEpoch(where="first"), flags, keep], 4, data=loader(1))
    assert flags.seen == [(True, True), (True, True), (False, True), (True, True)]


def test_progressive_freeze_freezes_all_cohorts_of_a_component():
    flags = Flags()
    phases = [("all", 0, 1.0, 1.0, 0), ("late", 2, 0.0, 1.0, 1)]
    fit(Wide(), [grow(), ProgressiveFreeze(phases), flags], 3, data=loader(1))
    assert flags.seen == [(True, True), (True, True), (False, True)]


def test_norms_are_those_of_whole_tensors():
    """The ratio of the cohorts is left alone by a factor that reads norms, weight decay of LARS included."""
    for mode in ("lr", "grad"):
        scaler = {"trust_coefficient": 0.1, "mode": mode, "skip_1d": False}
        lars = one_step([LARSScaler(**scaler)])
        assert_ratio(one_step([LARSScaler(**scaler), Own(old=0.5, new=0.2)]), lars, 0.5, 0.2)


def test_factor_that_reads_gradients_and_the_birth(whole):
    class Gradients(LRFactor):
        needs_gradients = True

        def factor(self, component, now):
            assert now.norms(component, False).grad > 0
            return 0.25 if component.born.generation else 1.0

    assert_ratio(one_step([Gradients()]), whole, 1.0, 0.25)


# ------------------------------------------------------------------------------------------- ways of stepping


class ByHand(Wide):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class ByHandWithClosure(Wide):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = Wide.training_step(self, batch, batch_idx)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


class ByHandBare(Wide):
    """Without Lightning's wrapper of the optimizer."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        (optimizer,) = self.trainer.optimizers
        optimizer.zero_grad()
        Wide.training_step(self, batch, batch_idx).backward()
        optimizer.step()


# Lightning counts steps of its own wrapper only, so a bare optimizer has no clock of steps
@pytest.mark.parametrize(
    ("make", "unit"),
    [
        (ByHand, "epoch"),
        (ByHand, "step"),
        (ByHandWithClosure, "epoch"),
        (ByHandWithClosure, "step"),
        (ByHandBare, "epoch"),
    ],
)
def test_manual_optimization(make, unit):
    def train(kind):
        torch.manual_seed(0)
        module = kind()
        warmup = Warmup(3, unit=unit, start=0.2)
        fit(module, [grow(), warmup, AgeDecay(0.5)], 4, data=loader(shuffle=False))
        return dict(module.named_parameters())

    assert_same(train(make), train(Wide))


class TwoOptimizers(Wide):
    """Each has one layer; both step in each batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [self.make_optimizer(part.parameters()) for part in (self.first, self.second)]


def test_several_optimizers():
    def train(kind):
        torch.manual_seed(0)
        module = kind()
        fit(module, [grow(), Warmup(2), Until({2})], 5, data=loader(shuffle=False))
        return dict(module.named_parameters())

    assert_same(train(TwoOptimizers), train(Wide))


@pytest.mark.parametrize("parity", [0, 1])
def test_slow_from_a_step_within_the_batch(parity):
    """A factor may change between two optimizers of a batch: the update that follows is scaled, and no other."""

    class ByStep(LRFactor):
        def factor(self, component, now):
            return 0.0 if component.founding and now.clock.step % 2 == parity else 1.0

    module, moved = TwoOptimizers(), Moved()
    fit(module, [grow(), ByStep(), moved], 2, data=loader(1))
    first, second = moved.by["first.weight"][:4], moved.by["second.weight"][:, :4]
    assert bool(first.any()) == (parity == 1)
    assert bool(second.any()) == (parity == 0)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
    ],
)
def test_accumulation_and_clipping(options):
    whole = one_step([], **options)
    by = one_step([Own(old=0.5, new=0.1)], **options)
    assert_ratio(by, whole, 0.5, 0.1)


def test_averaged_copies_have_the_births():
    module, average = Wide(), EMAWeightAveraging(decay=0.9)
    fit(module, [grow(), Own(old=0.5), average], 3)
    assert average._average_model.module._generations == module._generations != {}


def test_bf16_true():
    moved = one_step([Own(old=0.0)], precision="bf16-true")
    assert moved["first.weight"].dtype == torch.bfloat16
    assert not moved["first.weight"][:4].any()
    assert moved["first.weight"][4:].any()


@pytest.mark.slow  # torch.compile takes ten seconds for AdamW
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_step_of_the_optimizer(backend):
    def adamw(params):
        optimizer = torch.optim.AdamW(params, lr=torch.tensor(0.01), foreach=False)
        optimizer.step = torch.compile(optimizer.step, backend=backend)
        return optimizer

    torch._dynamo.reset()
    whole = one_step([Own(0.5, 0.5)], make=lambda: Wide(lambda params: torch.optim.AdamW(params, lr=0.01)))
    by = one_step([Own(0.5, 0.25)], make=lambda: Wide(adamw))
    for name in ("first.weight", "first.bias"):
        torch.testing.assert_close(by[name][:4], whole[name][:4], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(by[name][4:], 0.5 * whole[name][4:], rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_compiled_module(whole):
    torch._dynamo.reset()

    def make():
        module = Wide()
        module.compile(backend="eager")
        return module

    assert_ratio(one_step([Own(0.5, 0.25)], make=make), whole, 0.5, 0.25)


class Twice(torch.optim.SGD):
    """Calls its closure twice, at the weights and beside them, as SAM does."""

    def step(self, closure):
        closure()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.data.add_(0.05)
        loss = closure()
        for weight, old in zip(weights, before, strict=True):
            weight.data.copy_(old)
        super().step()
        return loss


def test_closure_called_twice():
    def make():
        return Wide(lambda params: Twice(params, lr=0.1))

    assert_ratio(one_step([Own(0.5, 0.0)], make=make), one_step([], make=make), 0.5, 0.0)


class Fails(torch.optim.SGD):
    """A step may raise when gradients are known, before the update."""

    fails = False

    def step(self, closure=None):
        if self.fails:
            raise ZeroDivisionError
        return super().step(closure)


def test_step_that_raises_leaves_no_old_values():
    class Tries(ByHandBare):
        def training_step(self, batch, batch_idx):
            (optimizer,) = self.trainer.optimizers
            first = self.first.weight.detach().clone()
            if self.current_epoch == 1:
                optimizer.fails = True
                self.first.weight.data.zero_()
                with pytest.raises(ZeroDivisionError):
                    super().training_step(batch, batch_idx)
                self.first.weight.data.copy_(first)
                optimizer.fails = False
            super().training_step(batch, batch_idx)

    def make(kind):
        return lambda: kind(lambda params: Fails(params, lr=0.1))

    assert_ratio(one_step([Own(0.5, 0.2)], make=make(Tries)), one_step([], make=make(Wide)), 0.5, 0.2)


class Scaled(Wide):
    """With a gradient scaler; the second step in epoch 1 overflows."""

    automatic_optimization = False
    overflows = False

    def training_step(self, batch, batch_idx):
        scaler = self.__dict__.setdefault("scaler", torch.amp.GradScaler("cpu", init_scale=4.0))
        (optimizer,) = self.trainer.optimizers
        optimizer.zero_grad()
        scaler.scale(Wide.training_step(self, batch, batch_idx)).backward()
        if self.overflows and self.current_epoch == 1:
            self.first.weight.grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_scaler(fused):
    def make(kind):
        return lambda: kind(lambda params: torch.optim.SGD(params, lr=0.1, fused=fused))

    class Overflowing(Scaled):
        overflows = True

    assert_ratio(one_step([Own(0.5, 0.2)], make=make(Scaled)), one_step([], make=make(Wide)), 0.5, 0.2)
    assert not any(moved.any() for moved in one_step([Own(0.5, 0.2)], make=make(Overflowing)).values())


def test_tensor_replaced_without_telling_the_optimizer():
    """The optimizer goes on with a tensor that the module no longer has."""

    class Replaces(Wide):
        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.current_epoch == 2:
                self.first, self.second = nn.Linear(6, 3), nn.Linear(3, 3)

    with pytest.warns(UserWarning, match="never be trained|outside|in no optimizer"):
        fit(Replaces(), [grow(), Own(0.5, 0.2)], 4)


# ------------------------------------------------------------------------------------------- optimizers


class ByTensor(torch.optim.Optimizer):
    """Updates one tensor after the other, and counts the steps of each as ``k``."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["k"] = state.get("k", 0) + 1
                self.update(weight, state, group["lr"])
        return loss


class ScheduleFree(ByTensor):
    """SGD on z, gradients at y, as in arXiv 2405.15682: the parameters are y, between z and their average x."""

    def update(self, y, state, lr):
        z = state.setdefault("z", y.clone())
        x = (y - 0.1 * z) / 0.9
        z.sub_(lr * y.grad)
        x.lerp_(z, 1 / state["k"])
        y.copy_(0.9 * x + 0.1 * z)


class Lookahead(ByTensor):
    """Every sixth step the weights go half of the way back to the slow weights in the state."""

    def update(self, weight, state, lr):
        slow = state.setdefault("slow", weight.clone())
        weight.sub_(lr * weight.grad)
        if state["k"] % 6 == 0:
            slow.lerp_(weight, 0.5)
            weight.copy_(slow)


def wrapped_in_lookahead(params, lr):
    return importlib.import_module("timm.optim.lookahead").Lookahead(torch.optim.SGD(params, lr=lr))


def of_pytorch_optimizer(name):
    return lambda params, lr: getattr(pytorch_optimizer, name)(params, lr=lr)


KEEP_WEIGHTS = {
    "schedule-free": ScheduleFree,
    "lookahead": Lookahead,
} | {name: of_pytorch_optimizer(name) for name in ("ScheduleFreeAdamW", "ScheduleFreeRAdam", "Ranger", "MADGRAD")}
if find_timm():
    KEEP_WEIGHTS["timm's lookahead"] = wrapped_in_lookahead


@pytest.mark.parametrize("name", KEEP_WEIGHTS)
def test_optimizers_that_keep_weights_are_refused_once_a_cohort_is_slow(name):
    def make():
        return Wide(lambda params: KEEP_WEIGHTS[name](params, lr=0.01))

    fit(make(), [grow(), Own(0.5, 0.5)], 3)
    with pytest.raises(MisconfigurationException, match="keeps a copy of the weights in its state"):
        # as many steps before the growth as a lookahead needs to make its slow weights
        fit(make(), [grow(), Own(old=0.5)], 3, data=loader(8))


def test_average_in_the_state_that_does_not_act_is_no_obstacle():
    """ASGD reads its lr when a step is over, for the next one, so the factors are the same at all steps."""

    def train(factors):
        torch.manual_seed(0)
        module, moved = Wide(lambda params: torch.optim.ASGD(params, lr=0.1)), Moved()
        module.wider()
        fit(module, [*factors, moved], 1, data=loader(1))
        return moved.by

    assert_ratio(train([Own(0.5, 0.2)]), train([]), 0.5, 0.2)


@pytest.mark.filterwarnings("ignore:Rprop was tried with two lrs")
@pytest.mark.parametrize("name", ["Adafactor", "Rprop"])
def test_update_is_scaled_where_no_exact_counterpart_exists(name):
    def make():
        return Wide(lambda params: getattr(torch.optim, name)(params, lr=0.01))

    by = one_step([Own(old=0.5)], make=make)
    assert all(torch.isfinite(moved).all() for moved in by.values())


class Shuffled(Wide):
    """Old and new units take turns, so that there are many blocks of one generation."""

    @growth(role="new")
    def shuffled(self):
        order = [place for pair in zip(range(4), [-1] * 4, strict=True) for place in pair]
        old, torch_order = self.first, torch.tensor(order)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight[torch_order >= 0] = old.weight
        came_from(self.first.weight, order)
        came_from(self.first.bias, order)
        came_from(self.second.weight, order, dim=1)


def test_many_blocks_are_scaled_entry_by_entry(monkeypatch):
    runs = []
    for limit in (0, 10_000):
        monkeypatch.setattr("structurenet_pl.learning_rates.cohort_updates.MAX_BLOCKS", limit)
        for old in (0.0, 0.1):
            torch.manual_seed(0)
            moved = Moved()
            fit(Shuffled(torch.optim.Adam), [grow("shuffled"), Own(old=old), moved], epochs=2)
            runs.append(moved.by)
    for entrywise, by_block in zip(runs[:2], runs[2:], strict=True):
        for name, movement in entrywise.items():
            # lerp towards the old value or from it: another rounding
            torch.testing.assert_close(movement, by_block[name], rtol=1e-4, atol=1e-6)
    assert (runs[0]["first.weight"][::2] == 0).all()
    assert (runs[0]["first.weight"][1::2] != 0).any()
