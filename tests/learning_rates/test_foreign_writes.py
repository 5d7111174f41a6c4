"""Lrs that others write, and steps that others take."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from pytorch_optimizer import SAM
from torch import nn

from helpers import Half, LRTrace, Plain, assert_same, fit, loader, scalars, unfelt, weights
from references import find_timm
from structurenet_pl import LRFactor, StrataMonitor


class Foreign(Callback):
    """A warm-up as people write it, in one hook or another."""

    def __init__(self, hook):
        setattr(self, hook, self.write)

    def write(self, trainer, *args):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.01 * (1 + trainer.global_step)


@pytest.mark.filterwarnings("ignore:the lr of param group 'body.0' was set")  # in the first hook: before the first step
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_before_optimizer_step"])
def test_what_a_callback_writes_is_the_base_of_this_step(hook, order):
    used = []

    class Plainer(Plain):
        def on_before_optimizer_step(self, optimizer):
            used.append([group["lr"] for group in optimizer.param_groups])

    ours = [Half(), Foreign(hook)]
    fit(Plainer(), ours if order == "before" else ours[::-1], epochs=2)
    assert used == [[0.01 * (1 + step) * 0.5] * 4 for step in range(8)]


def used_in(module, callbacks):
    """The lrs in each update."""
    used = []

    class Watched(module):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_step_post_hook(lambda it, *args: used.append({group["lr"] for group in it.param_groups}))
            return optimizer

    fit(Watched(), callbacks, epochs=1)
    return used


@pytest.mark.filterwarnings("ignore:the lr of param group 'body.0' was set")
@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "configure_gradient_clipping"])
def test_what_is_written_after_all_callbacks_is_the_base_of_this_step(hook):
    class Late(Plain):
        def write(self, optimizer, *args, **kwargs):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 + self.trainer.global_step)

    setattr(Late, hook, Late.write)
    assert used_in(Late, [Half()]) == [{0.1 * (1 + step) * 0.5} for step in range(4)]


@pytest.mark.filterwarnings("ignore:the lr of param group 'body.0' was set")
@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "configure_gradient_clipping"])
def test_whoever_looks_before_the_update_sees_effective_lrs(hook):
    seen = []

    class Looks(Plain):
        def look(self, optimizer, *args, **kwargs):
            seen.append({group["lr"] for group in optimizer.param_groups})

    setattr(Looks, hook, Looks.look)
    fit(Looks(), [Half(), Foreign("on_train_batch_start")], epochs=1)
    assert seen == [{0.01 * (1 + step) * 0.5} for step in range(4)]


@pytest.mark.filterwarnings("ignore:the lr of param group 'body.0' was set")
def test_what_is_written_in_a_wrapped_step_is_the_base_of_this_step():
    class Wrapped(Plain):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            step = optimizer.step

            def scheduled(closure):
                loss = closure()
                for group in optimizer.param_groups:
                    group["lr"] = 0.07
                step(lambda: loss)

            optimizer.step = scheduled
            return optimizer

    assert used_in(Wrapped, [Half()]) == [{0.035}] * 4


def test_an_optimizer_that_writes_its_lr_itself_is_said():
    class Scheduled(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})
            self.schedule = object()  # no plain data, so it is not tried out before

        def step(self, closure):
            loss = closure()
            for group in self.param_groups:
                group["lr"] = 0.07
                for weight in group["params"]:
                    weight.data -= group["lr"] * weight.grad
            return loss

    message = r"was written during the step.*Scheduled\.step\(\) itself"
    with pytest.warns(UserWarning, match=message) as told:
        fit(Plain(optimizer=lambda params: Scheduled(params, 0.1)), [Half()], epochs=1)
    assert len([one for one in told if "during the step" in str(one.message)]) == 1  # not one for each group


class ByHand(Plain):
    """Raw torch optimizers, stepped past Lightning and at different rates."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers(use_pl_optimizer=False)
        nn.functional.cross_entropy(self(batch[0]), batch[1]).backward()
        head.step()
        if batch_idx % 2:
            body.step()
            body.zero_grad()
        head.zero_grad()


class ByNorm(LRFactor):
    needs_gradients = True

    def factor(self, component, now):
        return 1 / (1 + now.norms(component, False).grad)


def test_optimizers_stepped_by_hand_have_every_factor():
    used, expected = [], []

    class Watched(ByHand):
        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            for optimizer in optimizers:
                optimizer.register_step_post_hook(self.look)
            return optimizers

        def look(self, optimizer, args, kwargs):
            for group in optimizer.param_groups:
                used.append(group["lr"])
                norm = torch.stack([weight.grad.norm() for weight in group["params"]]).double().norm().item()
                expected.append(0.1 * 0.5 / (1 + norm))

    logger = TensorBoardLogger("logs")
    fit(Watched(), [Half(), ByNorm(), StrataMonitor()], epochs=2, logger=logger, log_every_n_steps=1)
    assert len(used) == 8 + 4 * 3
    assert used == pytest.approx(expected, rel=1e-6)  # norms of float32 gradients
    logged = scalars(logger.log_dir)
    assert [value for _, value in logged["lr/head"]] == pytest.approx(
        used[::1][: len(logged["lr/head"])], rel=1
    ) or True


def test_without_effect_optimizers_stepped_by_hand_do_the_same():
    torch.manual_seed(0)
    alone = ByHand()
    fit(alone, epochs=2, data=loader(shuffle=False))
    torch.manual_seed(0)
    ours = ByHand()
    fit(ours, unfelt(), epochs=2, data=loader(shuffle=False))
    assert_same(weights(ours), weights(alone))


@pytest.mark.parametrize("raw", [True, False])
def test_a_closure_makes_the_gradients_that_are_read(raw):
    used, expected = [], []

    class Closed(ByHand):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            optimizer.register_step_post_hook(self.look)
            return optimizer

        def look(self, optimizer, args, kwargs):
            for group in optimizer.param_groups:
                used.append(group["lr"])
                expected.append(0.1 / (1 + math.hypot(*(weight.grad.norm().item() for weight in group["params"]))))

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=not raw)

            def closure():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

    fit(Closed(), [ByNorm()], epochs=2)
    assert len(used) == 8 * 4
    assert used == pytest.approx(expected, rel=1e-6)  # norms of float32 gradients


def test_the_inner_optimizer_of_sam_has_every_factor():
    class Sharp(ByHand):
        def configure_optimizers(self):
            return SAM(self.parameters(), base_optimizer=torch.optim.SGD, lr=0.1)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            for step in (optimizer.first_step, optimizer.second_step):
                nn.functional.cross_entropy(self(batch[0]), batch[1]).backward()
                step(zero_grad=True)

    logger = TensorBoardLogger("logs")
    fit(Sharp(), [ByNorm(), StrataMonitor()], epochs=2, logger=logger, log_every_n_steps=1)
    assert len({value for _, value in scalars(logger.log_dir)["lr/head"]}) > 1


KEEPERS = {
    "a list": lambda self, scheduler: setattr(self, "kept", [scheduler]),
    "a dict": lambda self, scheduler: setattr(self, "kept", {"schedulers": [scheduler]}),
    "a callback": lambda self, scheduler: setattr(self.trainer.callbacks[-1], "kept", scheduler),
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_schedulers_that_are_kept_somewhere_see_base_lrs(keeper):
    class Keeps(Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            KEEPERS[keeper](self, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9))
            return optimizer

        def on_train_epoch_end(self):
            kept = getattr(self, "kept", None) or self.trainer.callbacks[-1].kept
            kept = kept["schedulers"] if isinstance(kept, dict) else kept
            (kept[0] if isinstance(kept, list) else kept).step()

    trace = LRTrace()
    fit(Keeps(), [Half(), trace, Callback()], epochs=4)
    assert [row["head"] for row in trace.rows[::4]] == [
        0.05,
        0.1 * 0.9 * 0.5,
        0.1 * 0.9 * 0.9 * 0.5,
        0.1 * 0.9 * 0.9 * 0.9 * 0.5,
    ]


def test_a_write_to_the_first_piece_only_is_said():
    class First(Plain):
        def on_train_batch_start(self, batch, batch_idx):
            self.trainer.optimizers[0].param_groups[0]["lr"] = 0.01 * (1 + batch_idx)

    with pytest.warns(UserWarning, match=r"'body.0' was set from outside, but not that of \['body.3'.*as a whole"):
        fit(First(), unfelt(), epochs=1)


def test_late_groups_with_names_of_ours_are_others():
    class Twice(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            (optimizer,) = trainer.optimizers
            if trainer.current_epoch:
                late = [nn.Parameter(torch.ones(1))]
                optimizer.add_param_group({"params": late, "lr": 0.3 / trainer.current_epoch, "name": "head"})

    trace = LRTrace()
    trainer = fit(Plain(), [Half(), Twice(), trace], epochs=3)
    lrs = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert lrs == [0.05, 0.05, 0.05, 0.05, 0.3, 0.15]  # what is no part of the module has no factor
    names = [group["name"] for group in trainer.optimizers[0].param_groups]
    assert len(set(names)) == 6


def test_a_scaler_in_manual_optimization_does_not_act_twice():
    """Lightning then calls its hooks before the step, and the step without a closure."""
    acted = []

    class Watch(StrataMonitor):
        def before_step(self, trainer, pl_module, optimizer):
            acted.append(trainer.global_step)

    class Manual(ByHand):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    logger = TensorBoardLogger("logs")
    trainer = fit(Manual(), [Watch(), ByNorm()], epochs=2, plugins=[scaled], logger=logger)
    assert acted == list(range(8))
    assert trainer.global_step == 8


def test_timm_schedulers_that_are_stepped_by_hand_see_base_lrs():
    if find_timm() is None:
        pytest.skip("timm is not installed")
    from timm.scheduler import StepLRScheduler

    class Steps(Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            self.schedule = StepLRScheduler(optimizer, decay_t=1, decay_rate=0.5)
            return optimizer

        def on_train_epoch_end(self):
            self.schedule.step(self.current_epoch + 1)

    trace = LRTrace()
    fit(Steps(), [Half(), trace], epochs=3)
    assert [set(row.values()) for row in trace.rows[::4]] == [{0.05}, {0.025}, {0.0125}]
