"""What a scheduler remembers per param group, brought in line with the groups."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

PER_GROUP = (
    "base_lrs",
    "_last_lr",
    "lr_lambdas",  # LambdaLR, MultiplicativeLR
    "min_lrs",  # ReduceLROnPlateau
    "max_lrs",  # CyclicLR
    "base_momentums",
    "max_momentums",
    "base_values",  # timm
)


def reindex(scheduler: Any, mapping: Sequence[int], n_old: int) -> None:
    """Rebuild the per-group lists of a scheduler, and of those nested in it.

    Args:
        scheduler: A torch scheduler, or one with lists of the same names.
        mapping: For each new group, the index of the old group whose entries it takes.
        n_old: Number of groups before.
    """
    for nested in _with_nested(scheduler):
        for key in PER_GROUP:
            values = vars(nested).get(key)
            if isinstance(values, list | tuple) and len(values) == n_old:
                setattr(nested, key, type(values)([_own(values[old]) for old in mapping]))


def _with_nested(scheduler: Any) -> list[Any]:
    """The scheduler and all inside it, each once."""
    found = {id(scheduler): scheduler}
    for inner in vars(scheduler).get("_schedulers", ()):
        found |= {id(nested): nested for nested in _with_nested(inner)}
    return list(found.values())


def _own(value: Any) -> Any:
    """Groups must not share a tensor that is written in place."""
    return value.clone() if isinstance(value, Tensor) else value
