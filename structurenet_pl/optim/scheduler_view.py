"""The stand-in for a split optimizer that schedulers hold: it shows the user's own param groups."""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol, cast

from torch.optim import Optimizer

from structurenet_pl.lightning import unwrapped
from structurenet_pl.optim.param_groups import Group
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import set_groups, with_inner

# private attribute by which LRScheduler.__init__ of torch notes that it has wrapped `step` of an optimizer
STEP_WRAPPED_MARK = "_wrapped_by_lr_sched"


class HoldsUserGroups(Protocol):
    """The source of the user's groups for a stand-in."""

    @property
    def groups(self) -> SplitGroups:
        """The pieces and the user's groups."""

    def refresh(self) -> None:
        """Give the user's groups and their pieces the same values, those written last."""

    def before_user_groups_are_read(self) -> None:
        """Write the lrs to the user's groups that somebody has written to their pieces."""

    def after_user_groups_were_written(self) -> None:
        """Have the pieces follow the user's groups."""


class UnsplitOptimizer:
    """Stands in for an optimizer: it has all attributes of the optimizer, except that its groups are the user's own.

    It has the optimizer's class, equality and hash. A deep copy or a pickle of it is one of the optimizer itself, with
    the user's groups: a copy belongs to no fit, so it must be the same as without this package.

    Args:
        optimizer: The optimizer.
        split: The source of the user's groups.
    """

    def __init__(self, optimizer: Optimizer, split: HoldsUserGroups) -> None:
        # not self._real = ..., which __setattr__ would pass on to the optimizer
        vars(self).update(_real=optimizer, _split=split)

    @property
    def param_groups(self) -> list[Group]:
        """The user's groups. Values that are written to them in a loop reach the pieces when the loop ends."""
        split: HoldsUserGroups = vars(self)["_split"]
        split.before_user_groups_are_read()
        groups = split.groups.lists_of(vars(self)["_real"]).user
        return _NotifyingGroups(groups, split.after_user_groups_were_written)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(vars(self)["_real"])

    @property
    def step(self) -> Any:
        """The optimizer's ``step``, with torch's mark of a wrapped one.

        When a scheduler is made, torch wraps ``step`` of its optimizer, to see later whether the optimizer has stepped.
        Without the mark it would wrap the step of this stand-in, which Lightning never calls. ``_opt_called`` is the
        attribute that torch's wrapper sets: the optimizer has stepped in this fit already.
        """
        step = vars(self)["_real"].step
        if hasattr(step, STEP_WRAPPED_MARK):
            return step

        def marked(*args: Any, **kwargs: Any) -> Any:
            return step(*args, **kwargs)

        setattr(marked, STEP_WRAPPED_MARK, True)
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
        return real_optimizer(self) is real_optimizer(other)

    def __hash__(self) -> int:
        return hash(real_optimizer(self))

    def __repr__(self) -> str:
        return Optimizer.__repr__(cast(Any, self))

    def __copy__(self) -> "UnsplitOptimizer":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _unsplit(copy.deepcopy(real_optimizer(self), memo), copy.deepcopy(self._user_groups_of_each(), memo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _unsplit, (real_optimizer(self), self._user_groups_of_each())

    def _user_groups_of_each(self) -> list[list[Group]]:
        """The user's groups of the optimizer and of those inside it."""
        split: HoldsUserGroups = vars(self)["_split"]
        split.refresh()
        return [split.groups.lists_of(one).user for one in with_inner(vars(self)["_real"])]


class _NotifyingGroups(list[Group]):
    """A list of groups that calls a function whenever a loop over it ends, because schedulers write in loops."""

    def __init__(self, groups: Iterable[Group], at_end: Callable[[], None]) -> None:
        super().__init__(groups)
        self._at_end = at_end

    def __iter__(self) -> Iterator[Group]:
        ending = self._ending()
        next(ending)
        return chain(super().__iter__(), ending)  # the loop itself runs in C

    def _ending(self) -> Iterator[Any]:
        """An iterator without items that is entered here, and left when a loop reaches it or is given up."""
        try:
            yield
        finally:
            self._at_end()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (self[:],)


def real_optimizer(value: Any) -> Any:
    """The optimizer behind a stand-in or behind Lightning's wrapper; other values as they are."""
    return vars(value)["_real"] if is_stand_in(value) else unwrapped(value)


def is_stand_in(value: Any) -> bool:
    """Whether a value is a stand-in. ``isinstance`` cannot decide, because a stand-in claims the optimizer's class."""
    return type(value) is UnsplitOptimizer


# a function of the module, because a pickle holds its name
def _unsplit(optimizer: Optimizer, lists: Iterable[list[Group]]) -> Optimizer:
    """Give a copied optimizer, and those inside it, the user's groups."""
    for one, groups in zip(with_inner(optimizer), lists, strict=True):
        set_groups(one, groups)
    return optimizer
