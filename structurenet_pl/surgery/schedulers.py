"""What a scheduler remembers per param group, brought in line with the groups."""

import copy
from collections.abc import Mapping, Sequence
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
    "warmup_steps",  # timm
    "restore_lr",  # timm's PlateauLRScheduler
)
NESTED = (
    "_schedulers",  # SequentialLR, ChainedScheduler
    "lr_scheduler",  # timm's PlateauLRScheduler
    "after_scheduler",  # GradualWarmupScheduler, which is copied from project to project
)


def reindex(scheduler: Any, mapping: Sequence[int], n_old: int) -> None:
    """Rebuild the per-group lists of a scheduler, and of those nested in it, in place.

    Args:
        scheduler: A torch scheduler, or one with lists of the same names.
        mapping: For each new group, the index of the old group whose entries it takes.
        n_old: Number of groups before.
    """
    for nested in with_nested(scheduler):
        vars(nested).update(_reindexed(vars(nested), mapping, n_old))


def reindex_state(state: Mapping[str, Any], mapping: Sequence[int], n_old: int) -> dict[str, Any]:
    """The same for what ``scheduler.state_dict()`` gave, as a copy."""
    changed = _reindexed(state, mapping, n_old)
    if "_schedulers" in state:
        changed["_schedulers"] = [reindex_state(inner, mapping, n_old) for inner in state["_schedulers"]]
    return {**state, **changed}


def _reindexed(attributes: Mapping[str, Any], mapping: Sequence[int], n_old: int) -> dict[str, Any]:
    return {
        key: type(values)([own(values[old]) for old in mapping])
        for key in PER_GROUP
        if isinstance(values := attributes.get(key), list | tuple) and len(values) == n_old
    }


def with_nested(scheduler: Any) -> list[Any]:
    """The scheduler and all inside it, each once."""
    found = {id(scheduler): scheduler}
    for inner in (vars(scheduler).get(key) for key in NESTED):
        for one in inner if isinstance(inner, list | tuple) else [inner]:
            if hasattr(one, "optimizer"):
                found |= {id(nested): nested for nested in with_nested(one)}
    return list(found.values())


def own(value: Any) -> Any:
    """The value, or a copy of what is written in place: groups must not share it."""
    if isinstance(value, Tensor):
        return value.clone()
    return copy.deepcopy(value) if isinstance(value, list | dict | set) else value
