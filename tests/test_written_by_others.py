"""Lrs that others write, and steps that others take."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from helpers import Half, Plain, assert_same, fit, loader, scalars, unfelt, weights
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


def test_what_is_written_after_us_is_said():
    class Late(Plain):
        def on_before_optimizer_step(self, optimizer):
            for group in optimizer.param_groups:
                group["lr"] = 0.3

    with pytest.warns(UserWarning, match=r"was written during the step.*SGD\.step\(\) itself, or by.*Write it in"):
        fit(Late(), [Half()], epochs=1)


def test_an_optimizer_that_writes_its_lr_in_a_wrapped_step_is_said():
    class Wrapped(Plain):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            step = optimizer.step

            def scheduled(closure):
                loss = closure()
                optimizer.param_groups[0]["lr"] = 0.07
                step(lambda: loss)

            optimizer.step = scheduled
            return optimizer

    with pytest.warns(UserWarning, match=r"was written during the step, after the factors had been applied"):
        fit(Wrapped(), [Half()], epochs=1)


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


def test_optimizers_stepped_by_hand_have_every_factor():
    class ByNorm(LRFactor):
        needs_gradients = True

        def factor(self, component, now):
            return 1 / (1 + now.norms(component, False).grad)

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
