"""What schedulers see in place of an optimizer whose param groups are split: the user's own groups."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from torch.optim import Optimizer

from structurenet_pl.lightning import unwrapped
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import set_groups, with_inner

Group = dict[str, Any]
TORCHS_MARK = "_wrapped_by_lr_sched"  # of LRScheduler.__init__ in torch.optim.lr_scheduler


class HoldsUserGroups(Protocol):
    """Where a stand-in finds the user's groups."""

    @property
    def groups(self) -> SplitGroups:
        """The user's groups and the pieces made of them."""

    def refresh(self) -> None:
        """Bring the user's groups and the pieces made of them in line, whichever was written last."""


class UnsplitOptimizer:
    """Stands in for an optimizer: all is the optimizer's, but the param groups are the user's own.

    It has the optimizer's class, equality and hash. A copy or a pickle of it is one of the optimizer itself, with the
    user's groups: it belongs to no fit, and is what it would be without us.

    Args:
        optimizer: What it stands in for.
        split: Where it finds the user's groups.
    """

    def __init__(self, optimizer: Optimizer, split: HoldsUserGroups) -> None:
        vars(self).update(_real=optimizer, _split=split)

    @property
    def param_groups(self) -> list[Group]:
        """The user's groups. What is written to them in a loop reaches the pieces when the loop ends."""
        split: HoldsUserGroups = vars(self)["_split"]
        split.refresh()
        return _Watched(split.groups.user_groups(vars(self)["_real"]), split.refresh)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(vars(self)["_real"])

    @property
    def step(self) -> Any:
        """The optimizer's, with the mark of one that torch has wrapped, or torch would wrap it to be called with this.

        Torch does so when a scheduler is made, to see whether the optimizer has stepped: here it has, in this fit.
        """
        step = vars(self)["_real"].step
        if hasattr(step, TORCHS_MARK):
            return step

        def marked(*args: Any, **kwargs: Any) -> Any:
            return step(*args, **kwargs)

        setattr(marked, TORCHS_MARK, True)
        vars(self)["_opt_called"] = True
        return marked

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "param_groups":
            raise AttributeError(
                "param_groups cannot be set here, where they are those of an optimizer whose groups are split by "
                "component: add groups with add_param_group, before the fit if you can"
            )
        setattr(vars(self)["_real"], name, value)

    def __eq__(self, other: object) -> bool:
        return real(self) is real(other)

    def __hash__(self) -> int:
        return hash(real(self))

    def __repr__(self) -> str:
        return Optimizer.__repr__(cast(Any, self))

    def __copy__(self) -> "UnsplitOptimizer":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _unsplit(copy.deepcopy(real(self), memo), copy.deepcopy(self._lists(), memo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _unsplit, (real(self), self._lists())

    def _lists(self) -> list[list[Group]]:
        split: HoldsUserGroups = vars(self)["_split"]
        split.refresh()
        return [split.groups.user_groups(one) for one in with_inner(vars(self)["_real"])]


class _Watched(list[Group]):
    """The user's groups; calls a function whenever a loop over them ends."""

    def __init__(self, groups: Iterable[Group], at_end: Callable[[], None]) -> None:
        super().__init__(groups)
        self._at_end = at_end

    def __iter__(self) -> Iterator[Group]:
        try:
            yield from super().__iter__()
        finally:
            self._at_end()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (self[:],)


def real(value: Any) -> Any:
    """The optimizer itself, if the value stands in for one or is what Lightning puts around it."""
    return vars(value)["_real"] if is_stand_in(value) else unwrapped(value)


def is_stand_in(value: Any) -> bool:
    """Whether it is no optimizer, although it passes for one."""
    return type(value) is UnsplitOptimizer


def _unsplit(optimizer: Optimizer, lists: Iterable[list[Group]]) -> Optimizer:
    """Give a copied optimizer, and those inside it, the user's groups."""
    for one, groups in zip(with_inner(optimizer), lists, strict=True):
        set_groups(one, groups)
    return optimizer
