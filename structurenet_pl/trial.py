"""What an optimizer does with its lr and its groups, found out by trying it on copies with two small parameters."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PLAIN = (bool, int, float, complex, str, type(None))
STEPS = 3
LR = 0.1
START = torch.tensor([[[1.0, -2.0]], [[0.5, 3.0]]], dtype=torch.float64)


@dataclass(frozen=True)
class Trial:
    """What was seen; what cannot be seen is taken to be as usual.

    Args:
        follows_lr: Its updates change when the lr changes after the first steps.
        keeps_lr: It leaves the lr as it is.
        keeps_groups: It makes no difference to a parameter which others share its group.
    """

    follows_lr: bool = True
    keeps_lr: bool = True
    keeps_groups: bool = True


def try_out(optimizer: Optimizer) -> Trial:
    """Try an optimizer, unless it holds tensors, modules or other optimizers: a copy could change the originals."""
    try:
        steady, slowed, split = _copy(optimizer), _copy(optimizer), _copy(optimizer, split=True)
        end, slowed_end, split_end = _train(steady, LR), _train(slowed, LR / 10), _train(split, LR)
    except Exception:  # whatever somebody's optimizer needs that a copy on the CPU does not have
        return Trial()
    return Trial(
        follows_lr=not torch.equal(end, slowed_end) or torch.equal(end, START.flatten(0, 1)),
        keeps_lr=all(float(group["lr"]) == LR for group in steady.param_groups),
        keeps_groups=torch.equal(end, split_end),
    )


def _copy(optimizer: Optimizer, split: bool = False) -> Optimizer:
    own = ("params", "param_names", "name", "lr")
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key not in own}
    weights = [nn.Parameter(start.clone()) for start in START]
    copied = object.__new__(type(optimizer))
    groups = [{**settings, "lr": LR, "params": part} for part in (weights if split else [weights])]
    Optimizer.__init__(copied, groups, dict(optimizer.defaults))
    for key, value in vars(optimizer).items():
        if key in vars(copied) or key == "step":  # a scheduler has wrapped it
            continue
        if not _is_plain(value):
            raise TypeError(f"{key} is not plain data")
        setattr(copied, key, value)
    return copied


def _train(optimizer: Optimizer, later: float) -> Tensor:
    """What becomes of the parameters when the lr changes half way."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def closure() -> float:
        optimizer.zero_grad()
        loss = torch.stack([(weight - 1).square().sum() for weight in weights]).sum()
        loss.backward()
        return cast(float, loss)  # as every training step does

    step: Callable[..., Any] = type(optimizer).step
    if getattr(step, "hooked", False):  # by torch, which calls the global hooks that profilers and tracers have set
        step = inspect.unwrap(step, stop=lambda wrapped: not getattr(wrapped, "hooked", False))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        for _ in range(STEPS):
            step(optimizer, closure)
        if later != LR:
            for group in optimizer.param_groups:
                group["lr"] = later
        for _ in range(STEPS):
            step(optimizer, closure)
    return torch.cat([weight.detach() for weight in weights])


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
