"""Copies of an optimizer with small tensors on the CPU, and training steps of these copies."""

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PLAIN_TYPES = (bool, int, float, complex, str, type(None), BuiltinFunctionType)  # functions such as torch.max
COPY_LR = 0.1
TRAINING_STEPS = 3
START_VALUES = [torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 3.0]], dtype=torch.float64)]
TARGET_VALUE = 1.0


@dataclass(frozen=True)
class Recipe:
    """The plain data of an optimizer, from which copies with other parameters are made.

    Args:
        kind: The class.
        settings: Settings of the first group, except the lr.
        defaults: Default settings of groups.
        attributes: All other attributes of the optimizer.
        lists: Names of the attributes that are lists with as many entries as there are groups.
    """

    kind: type[Optimizer]
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    attributes: Mapping[str, Any]
    lists: tuple[str, ...]

    @classmethod
    def of(cls, optimizer: Optimizer) -> "Recipe":
        """The recipe of an optimizer.

        Raises:
            TypeError: If it holds other objects than plain data: steps of a copy could change objects in use elsewhere.
        """
        not_copied = ("params", "param_names", "name", "lr", "initial_lr")
        # `step` is an attribute if a scheduler has wrapped it
        known = vars(Optimizer([torch.zeros(1)], {})).keys() | {"step"}
        attributes = {key: _plain_copy(value) for key, value in vars(optimizer).items() if key not in known}
        return cls(
            type(optimizer),
            {key: _plain_copy(value) for key, value in optimizer.param_groups[0].items() if key not in not_copied},
            copy.deepcopy(optimizer.defaults),
            attributes,
            tuple(
                key
                for key, value in attributes.items()
                if isinstance(value, list | tuple) and len(value) == len(optimizer.param_groups)
            ),
        )

    def make(
        self, starts: Sequence[Tensor], split: bool = False, by_group: Collection[str] = (), lr: float = COPY_LR
    ) -> Optimizer:
        """Make a new optimizer.

        Args:
            starts: The initial values of its parameters.
            split: Whether each parameter gets a group of its own.
            by_group: Names of lists that get an entry for each group.
            lr: The lr of all groups.
        """
        weights = [nn.Parameter(start.clone()) for start in starts]
        # without the class's own __init__, whose arguments are not known; its results are in attributes and settings
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

        Equal lengths may be chance, so a copy decides: it has one group more than the list has entries. Only if it
        trains wrongly with the lists as they are, and like a single group with an entry for each, they are by group.
        """
        if not self.lists:
            return []
        group_count = len(self.attributes[self.lists[0]]) + 1
        starts = [START_VALUES[index % len(START_VALUES)] for index in range(group_count)]

        def trains_like_single_group(by_group: Collection[str]) -> bool:
            try:
                single_end = train(self.make(starts, by_group=by_group))
                return torch.equal(single_end, train(self.make(starts, split=True, by_group=by_group)))
            except Exception:  # such as an IndexError
                return False

        return list(self.lists) if not trains_like_single_group(()) and trains_like_single_group(self.lists) else []


def train(
    optimizer: Optimizer,
    later_lrs: Sequence[float] = (),
    slope: float = 1.0,
    target: float = TARGET_VALUE,
    steps: int = TRAINING_STEPS,
) -> Tensor:
    """Train the parameters of a copy towards a target value.

    Args:
        optimizer: A copy that ``Recipe.make`` has made.
        later_lrs: Lrs of its groups for as many steps more, none for no more steps.
        slope: Multiplier of the gradients.
        target: The value of all entries at the minimum of the loss.
        steps: Number of steps.

    Returns:
        All entries of all parameters at the end.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def closure() -> float:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = slope * torch.stack([(weight - target).square().sum() for weight in weights]).sum()
            loss.backward()
        return cast(float, loss)  # a tensor, as from every training step; torch's annotation says float

    # Optimizer.__init__ wraps `step` of the class in a function with the attribute `hooked`, which calls the global
    # hooks of profilers and tracers. These must not see the copies
    step: Callable[..., Any] = type(optimizer).step
    if getattr(step, "hooked", False):
        step = inspect.unwrap(step, stop=lambda wrapped: not getattr(wrapped, "hooked", False))
    # optimizers that draw random numbers must not move the user's generator; only the CPU's, because a seed for all
    # devices would start CUDA
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for _ in range(steps):
            step(optimizer, closure)
        for group, lr in zip(optimizer.param_groups, later_lrs, strict=False):
            group["lr"] = lr
        for _ in range(steps if later_lrs else 0):
            step(optimizer, closure)
    return torch.cat([weight.detach().flatten() for weight in weights])


def _plain_copy(value: Any) -> Any:
    """A copy of plain data.

    Raises:
        TypeError: If it contains other objects.
    """
    if isinstance(value, dict):
        return {key: _plain_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_plain_copy, value))
    if isinstance(value, PLAIN_TYPES):
        return value
    raise TypeError(f"{value!r} is not plain data")
