"""What an optimizer does with its lr and its groups, found out by trying it on copies with two small parameters."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.surgery.schedulers import reindex

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
        takes_lrs: Its groups may have lrs of their own.
    """

    follows_lr: bool = True
    keeps_lr: bool = True
    keeps_groups: bool = True
    takes_lrs: bool = True


def try_out(optimizer: Optimizer) -> Trial:
    """Try an optimizer, unless it holds anything but plain data: a copy could change what others use, too."""
    try:
        steady, slowed, split = _copy(optimizer), _copy(optimizer), _copy(optimizer, split=True)
        end, slowed_end, split_end = _train(steady, [LR]), _train(slowed, [LR / 10]), _train(split, [LR])
    except Exception:  # whatever somebody's optimizer needs that a copy on the CPU does not have
        return Trial()
    try:
        _train(_copy(optimizer, split=True), [LR, LR / 10])
        takes_lrs = True
    except Exception:  # in whatever way it refuses
        takes_lrs = False
    return Trial(
        follows_lr=not torch.equal(end, slowed_end) or torch.equal(end, START.flatten(0, 1)),
        keeps_lr=all(float(group["lr"]) == LR for group in steady.param_groups),
        keeps_groups=torch.equal(end, split_end),
        takes_lrs=takes_lrs,
    )


def _copy(optimizer: Optimizer, split: bool = False) -> Optimizer:
    own = ("params", "param_names", "name", "lr", "initial_lr")
    settings = {key: _plain(value) for key, value in optimizer.param_groups[0].items() if key not in own}
    weights = [nn.Parameter(start.clone()) for start in START]
    copied = object.__new__(type(optimizer))
    Optimizer.__init__(copied, [{**settings, "lr": LR, "params": weights}], copy.deepcopy(optimizer.defaults))
    for key, value in vars(optimizer).items():
        if key not in vars(copied) and key != "step":  # a scheduler has wrapped it
            setattr(copied, key, _plain(value))
    if split:
        groups = [{**copy.deepcopy(settings), "lr": LR, "params": [weight]} for weight in weights]
        copied.param_groups[:] = groups
        reindex(copied, [0, 0], 1)
    return copied


def _train(optimizer: Optimizer, later: Sequence[float]) -> Tensor:
    """What becomes of the parameters when the lrs of the groups change half way."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def closure() -> float:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = torch.stack([(weight - 1).square().sum() for weight in weights]).sum()
            loss.backward()
        return cast(float, loss)  # as every training step does

    step: Callable[..., Any] = type(optimizer).step
    if getattr(step, "hooked", False):  # by torch, which calls the global hooks that profilers and tracers have set
        step = inspect.unwrap(step, stop=lambda wrapped: not getattr(wrapped, "hooked", False))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no other device's
        for _ in range(STEPS):
            step(optimizer, closure)
        for index, group in enumerate(optimizer.param_groups):
            if later[index % len(later)] != LR:
                group["lr"] = later[index % len(later)]
        for _ in range(STEPS):
            step(optimizer, closure)
    return torch.cat([weight.detach() for weight in weights])


def _plain(value: Any) -> Any:
    """A copy of plain data.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_plain, value))
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"{value!r} is not plain data")
