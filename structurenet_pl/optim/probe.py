"""What an optimizer does with its lr and its groups, found out by trying it on copies with small tensors."""

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PLAIN = (bool, int, float, complex, str, type(None), BuiltinFunctionType)  # torch.max among them
STEPS = 3
LR = 0.1
START = [torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 3.0]], dtype=torch.float64)]
TINY_LR = 1e-6
LATE = 12  # steps; RAdam normalises from the sixth on
STEEP = 10.0
ALIKE = 2.0  # what grows by less than that while gradients grow by STEEP is normalised


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


@dataclass(frozen=True)
class Recipe:
    """What it takes to make optimizers like one: class, settings of its first group, and attributes, all plain data.

    Args:
        kind: The class.
        settings: Settings of the first group, but for the lr.
        defaults: Settings of groups that do not say otherwise.
        attributes: All else that an optimizer holds.
        lists: Names of the attributes that are lists with as many entries as there are groups.
    """

    kind: type[Optimizer]
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    attributes: Mapping[str, Any]
    lists: tuple[str, ...]

    @classmethod
    def of(cls, optimizer: Optimizer) -> "Recipe":
        """The recipe for an optimizer.

        Raises:
            TypeError: If it holds anything but plain data: a copy could change what others use, too.
        """
        left_out = ("params", "param_names", "name", "lr", "initial_lr")
        known = vars(Optimizer([torch.zeros(1)], {})).keys() | {"step"}  # which a scheduler has wrapped
        attributes = {key: _plain(value) for key, value in vars(optimizer).items() if key not in known}
        return cls(
            type(optimizer),
            {key: _plain(value) for key, value in optimizer.param_groups[0].items() if key not in left_out},
            copy.deepcopy(optimizer.defaults),
            attributes,
            tuple(
                key
                for key, value in attributes.items()
                if isinstance(value, list | tuple) and len(value) == len(optimizer.param_groups)
            ),
        )

    def make(
        self, starts: Sequence[Tensor], split: bool = False, by_group: Collection[str] = (), lr: float = LR
    ) -> Optimizer:
        """A new optimizer.

        Args:
            starts: The values that its parameters start with.
            split: Whether each has a group of its own.
            by_group: Names of lists that have an entry for each group.
            lr: The lr of all groups.
        """
        weights = [nn.Parameter(start.clone()) for start in starts]
        made = object.__new__(self.kind)
        defaults = copy.deepcopy(dict(self.defaults))
        Optimizer.__init__(made, [{**copy.deepcopy(self.settings), "lr": lr, "params": weights}], defaults)
        if split:
            made.param_groups[:] = [
                {**copy.deepcopy(self.settings), "lr": lr, "params": [weight]} for weight in weights
            ]
        for key, value in copy.deepcopy(self.attributes).items():
            entries = type(value)([value[0]] * len(made.param_groups)) if key in by_group else value
            setattr(made, key, entries)
        return made

    def lists_by_group(self) -> list[str]:
        """Names of the lists that have an entry for each param group, such as ``base_lrs`` of AdaBound.

        They are known by what they do: only with an entry for each group does a copy with one more group than there are
        entries what it does with a single group.
        """
        if not self.lists:
            return []
        starts = [START[index % len(START)] for index in range(len(self.attributes[self.lists[0]]) + 1)]

        def is_right(by_group: Collection[str]) -> bool:
            try:
                whole = train(self.make(starts, by_group=by_group))
                return torch.equal(whole, train(self.make(starts, split=True, by_group=by_group)))
            except Exception:  # such as an IndexError
                return False

        return list(self.lists) if not is_right(()) and is_right(self.lists) else []


def try_out(optimizer: Optimizer) -> Trial:
    """Try an optimizer, if copies of it can be made."""
    try:
        recipe = Recipe.of(optimizer)
        by_group = recipe.lists_by_group()
        steady = recipe.make(START)
        end = train(steady, later=[LR])
        slowed_end = train(recipe.make(START), later=[LR / 10])
        split_end = train(recipe.make(START, split=True, by_group=by_group), later=[LR, LR])
    except Exception:  # whatever somebody's optimizer needs that a copy on the CPU does not have
        return Trial()
    try:
        train(recipe.make(START, split=True, by_group=by_group), later=[LR, LR / 10])
        takes_lrs = True
    except Exception:  # in whatever way it refuses
        takes_lrs = False
    return Trial(
        follows_lr=not torch.equal(end, slowed_end) or torch.equal(end, torch.cat(START).flatten()),
        keeps_lr=all(float(group["lr"]) == LR for group in steady.param_groups),
        keeps_groups=torch.equal(end, split_end),
        takes_lrs=takes_lrs,
    )


def normalises(optimizer: Optimizer) -> bool:
    """Whether its updates are about as large when gradients are ten times as large; no if that cannot be seen."""
    try:
        recipe = Recipe.of(optimizer)
        update, steep_update = (_late_update(recipe, slope) for slope in (1.0, STEEP))
    except Exception:  # as in try_out
        return False
    return 0 < steep_update < ALIKE * update


def train(
    optimizer: Optimizer, later: Sequence[float] = (), slope: float = 1.0, goal: float = 1.0, steps: int = STEPS
) -> Tensor:
    """Have an optimizer bring its parameters nearer to a goal, and give all their entries at the end.

    Args:
        optimizer: One that was made for it.
        later: The lrs of its groups in as many steps more.
        slope: What the gradients are multiplied by.
        goal: The value that all parameters are to have.
        steps: The number of steps.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def closure() -> float:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = slope * torch.stack([(weight - goal).square().sum() for weight in weights]).sum()
            loss.backward()
        return cast(float, loss)  # as every training step does

    step: Callable[..., Any] = type(optimizer).step
    if getattr(step, "hooked", False):  # by torch, which calls the global hooks that profilers and tracers have set
        step = inspect.unwrap(step, stop=lambda wrapped: not getattr(wrapped, "hooked", False))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no other device's
        for _ in range(steps):
            step(optimizer, closure)
        for group, lr in zip(optimizer.param_groups, later, strict=False):
            group["lr"] = lr
        for _ in range(steps if later else 0):
            step(optimizer, closure)
    return torch.cat([weight.detach().flatten() for weight in weights])


def _late_update(recipe: Recipe, slope: float) -> float:
    """The size of an update of an optimizer that has taken some steps, at an lr at which parameters hardly move."""
    made = recipe.make(START, lr=TINY_LR)
    before = train(made, slope=slope, steps=LATE)
    return float((train(made, slope=slope, steps=1) - before).norm())


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
