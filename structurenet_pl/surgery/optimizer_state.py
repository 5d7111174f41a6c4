"""Optimizer state carried over a change of shape."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.successors import Successor, embed

Moments = Literal["mean", "zero", "reset"]

# What optimizers call their states, by what a new entry starts as. States of other names are not guessed.
ZERO = {
    "momentum_buffer", "exp_avg", "exp_avg_diff", "exp_avg_slow", "prev", "previous_grad", "prev_grad", "grad_avg", "m"
}  # fmt: skip
SECOND_MOMENTS = {
    "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum", "variance", "row_var", "col_var",
    "step_size", "exp_avg_var", "max_exp_avg_var", "v",
}  # fmt: skip
FACTORED = {"row_var", "col_var"}
WEIGHTS = {"ax", "slow_params", "slow_buffer", "lookahead_slow_buff", "z"}


def check_moments(moments: str) -> None:
    """Check a policy for second moments.

    Raises:
        ValueError: If it is none.
    """
    if moments not in get_args(Moments):
        raise ValueError(f"moments must be one of {get_args(Moments)}, got {moments!r}")


def carry(name: str, state: Mapping[str, Any], successor: Successor, moments: Moments) -> dict[str, Any]:
    """The state of a tensor's successor: old entries keep theirs, new ones start as the optimizer's would.

    Counters are kept. First moments of new entries are 0; second moments are the mean of the old ones, 0, or, with
    ``"reset"``, the state is dropped as a whole. With Adam, old counter and 0, the first steps of a new entry would be
    two to three times the lr.

    Args:
        name: Name of the parameter, for the warning.
        state: State of the old tensor.
        successor: What continues it.
        moments: Policy for second moments.
    """
    if not successor.reshaped:
        return dict(state)
    if moments == "reset":
        return {}
    carried = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or key == "step":
            carried[key] = value
        elif key not in ZERO | SECOND_MOMENTS | WEIGHTS or not _fits(key, value, successor.old_shape):
            rank_zero_warn(
                f"the optimizer state {key!r} of {name!r}, of shape {tuple(value.shape)}, cannot be carried over to "
                f"shape {tuple(successor.tensor.shape)}: the optimizer starts anew for this parameter"
            )
            return {}
        else:
            carried[key] = embed(value, successor, _fill(key, value, successor, moments))
    return carried


def _fits(key: str, value: Tensor, shape: torch.Size) -> bool:
    """Whether a state has the shape of its parameter, or 1 where it has more; not if that cannot be told apart."""
    if key in FACTORED and 1 in shape[-2:]:
        return False
    return value.ndim == len(shape) and all(size in (1, whole) for size, whole in zip(value.shape, shape, strict=True))


def _fill(key: str, value: Tensor, successor: Successor, moments: Moments) -> Tensor:
    if key in WEIGHTS:
        return successor.tensor.detach().to(value.dtype)
    if key in SECOND_MOMENTS and moments == "mean" and value.numel():
        return value.mean()
    return torch.zeros((), dtype=value.dtype, device=value.device)
