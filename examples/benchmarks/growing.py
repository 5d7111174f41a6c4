"""Rows: one growth event in a fit, and the same by hand."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from examples.benchmarks.harness import Row, Samples, alternate, less, seconds
from examples.benchmarks.nets import Chain, GrowingChain
from examples.benchmarks.turns import Fit, in_fit
from structurenet_pl import Warmup
from structurenet_pl.distributed.ddp import rewrap

MORE = 128  # units that a widening adds


def step_of(trainer: Trainer, batch: Tensor) -> Callable[[], object]:
    """A training step without the Trainer."""
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]

    def step() -> None:
        optimizer.zero_grad()
        module.training_step([batch], 0).backward()
        optimizer.step()

    return step


def grow_in_fit(net: GrowingChain, sides: Callable[[Trainer], dict[str, Callable[[], object]]], rounds: int) -> Samples:
    """Times of the sides at a safe moment of a fit."""
    fit = Fit(net, [Warmup(3)], shape=(64, net.width))
    return in_fit(fit, "on_train_batch_end", lambda trainer: alternate(sides(trainer), rounds))


def add(width: int, rounds: int) -> Samples:
    net = GrowingChain(6, width)
    return grow_in_fit(net, lambda _: {"ours": net.add, "reference": lambda: nn.Linear(width, width)}, rounds)


def widen(width: int, rounds: int) -> Samples:
    """Each widening starts from the width that the last has left; so does the copy."""
    net, samples = GrowingChain(6, width), {"ours": [], "reference": []}

    def measure(trainer: Trainer) -> Samples:
        net.wider(MORE)  # warm up
        for _ in range(rounds):
            old = [net.body[0].weight, net.body[0].bias, net.body[1].weight]
            samples["reference"].append(seconds(lambda old=old: [bare_copy(one) for one in old for _ in range(3)]))
            samples["ours"].append(seconds(lambda: net.wider(MORE)))
        return samples

    return in_fit(Fit(net, [Warmup(3)], shape=(64, width)), "on_train_batch_end", measure)


def bare_copy(tensor: Tensor) -> Tensor:
    """A tensor with more rows, or with more columns: those of a weight, or of one of its two moments."""
    at = 0 if tensor.ndim == 1 or tensor.shape[0] > tensor.shape[1] else 1
    wider = torch.zeros([size + MORE * (axis == at) for axis, size in enumerate(tensor.shape)])
    wider[tuple(slice(size) for size in tensor.shape)] = tensor.detach()
    return wider


class ByHand(Callback):
    """Give the optimizer of a new Trainer the moments of a checkpoint, and stop the clock when it could train."""

    def __init__(self, saved: dict[str, Any], names: list[str]) -> None:
        self.state = dict(zip(names, saved["optimizer_states"][0]["state"].values(), strict=True))
        self.end = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.state:
                state = self.state[name]
                moments = {key: embedded(state[key], parameter) for key in ("exp_avg", "exp_avg_sq")}
                trainer.optimizers[0].state[parameter] = {"step": state["step"], **moments}
        self.end = time.process_time()
        trainer.should_stop = True


def embedded(old: Tensor, new: Tensor) -> Tensor:
    """The old values in the shape of a new tensor."""
    result = torch.zeros_like(new)
    result[tuple(slice(size) for size in old.shape)] = old
    return result


def by_hand(layers: int, rounds: int, wide: bool) -> Samples:
    """The same growth live, and by a checkpoint, a new network, a new Trainer and moments that are carried by name."""
    samples: Samples = {"ours": [], "reference": []}
    for _ in range(rounds):
        net = GrowingChain(layers, 1024)
        live = (lambda net=net: net.wider(MORE)) if wide else net.add
        fit = Fit(net, [Warmup(3)], shape=(64, 1024))
        in_fit(fit, "on_train_batch_end", lambda _, live=live: samples["ours"].append(seconds(live)))
        plain = Chain(layers, 1024)
        trainer = Fit(plain, shape=(64, 1024)).run(2)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            trainer.save_checkpoint(path := Path(folder) / "last.ckpt")
            saved = torch.load(path, weights_only=True)
            bigger = Chain(layers + (not wide), 1024)
            if wide:
                bigger.body[0], bigger.body[1] = nn.Linear(1024, 1024 + MORE), nn.Linear(1024 + MORE, 1024)
            values = {
                name: embedded(saved["state_dict"].get(name, tensor), tensor)
                for name, tensor in bigger.state_dict().items()
            }
            bigger.load_state_dict(values)
            hand = ByHand(saved, list(saved["state_dict"]))
            Fit(bigger, shape=(64, 1024)).run(1, hand)
            samples["reference"].append(hand.end - start)
    return samples


def bookkeeping(layers: int, rounds: int, events: int = 0) -> Samples:
    """An added block less its random init, and a step of the same network."""
    net = GrowingChain(layers - events, 64)
    for _ in range(events):
        net.add()

    def sides(trainer: Trainer) -> dict[str, Callable[[], object]]:
        step = step_of(trainer, torch.randn(64, 64))
        return {"add": net.add, "init": lambda: nn.Linear(64, 64), "reference": step}

    samples = grow_in_fit(net, sides, rounds)
    init = samples.pop("init")
    return {"ours": less(samples.pop("add"), init), **samples}


def rewrapped(tensors: int, rounds: int) -> Samples:
    """DDP around the module anew, on one process: this part of a growth does not communicate."""
    batch = torch.randn(32, 256)

    def measure(trainer: Trainer) -> Samples:
        return alternate({"ours": lambda: rewrap(trainer.strategy), "reference": step_of(trainer, batch)}, rounds)

    strategy = DDPStrategy(process_group_backend="gloo")
    fit = Fit(GrowingChain(tensors // 2, 256), shape=(32, 256), settings={"strategy": strategy, "devices": 1})
    return in_fit(fit, "on_train_batch_end", measure)


ROWS = [
    Row("add", "an added block over its random init", "units", {256: None, 1024: 1.3, 2048: None}, add),
    Row("widen", "a widening over the bare copy with moments", "units", {256: None, 1024: 1.3, 2048: None}, widen),
    *(
        Row(
            f"by-hand-{what}",
            f"live growth ({what}) over checkpoint, new Trainer and moments carried by hand",
            "layers of 1024 units",
            {6: 1 / 30},
            lambda size, rounds, wide=wide: by_hand(size, rounds, wide),
            rounds=5,
        )
        for what, wide in (("add", False), ("widen", True))
    ),
    Row(
        "bookkeeping",
        "an added block less its init, in steps",
        "components",
        dict.fromkeys((10, 100, 1000), 0.3),
        bookkeeping,
    ),
    Row(
        "bookkeeping-log",
        "the same after so many events, 10 components more",
        "events",
        dict.fromkeys((10, 100, 500), 0.3),
        lambda size, rounds: bookkeeping(size + 10, rounds, events=size),
    ),
    Row("ddp", "DDP wrapped anew, in steps", "tensors", {14: 0.1, 100: None, 400: 0.1}, rewrapped),
]
