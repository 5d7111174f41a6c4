"""Early components come to rest first."""

from collections.abc import Sequence
from typing import NamedTuple

from structurenet_pl.callbacks.base import LRFactor
from structurenet_pl.events import Component, Moment, Unit, check_unit


class Phase(NamedTuple):
    """A stretch of time in which early and late components have one factor each."""

    name: str
    start: float
    early: float
    late: float
    split: float


PHASES = (
    ("warmup", 0, 1.0, 1.0, 0),
    ("refinement", 10, 0.01, 0.1, 2),
    ("final", 30, 0.0, 0.1, -1),
)


class ProgressiveFreeze(LRFactor):
    r"""Slow down and freeze the network in phases, from the input on.

    .. math:: f = \begin{cases} \text{early}_p & i < \text{split}_p \\ \text{late}_p & \text{otherwise} \end{cases}

    where :math:`p` is the last phase that has started and :math:`i` the index of the component's depth among the
    distinct depths of the network. A frozen component has lr 0: its parameters stand still in every optimizer that
    follows its lr, while its norm layers still see the data.

    Args:
        phases: ``(name, start in unit, early factor, late factor, split)`` of each phase, in order of time, the first
            one from 0. A split >= 1 or <= -1 counts depths, from the output if negative; one in (0, 1) is a share of
            them; 0 means that all are late.
        unit: What the start of a phase is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If the phases do not start at 0 or are not sorted, a factor is negative, a split is neither a whole
            number nor in (0, 1), or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, Moment, ProgressiveFreeze
        >>> layers = tuple(Component(f"layers.{depth}", depth=depth) for depth in range(4))
        >>> freeze = ProgressiveFreeze()
        >>> for epoch in (0, 10, 30):
        ...     print([freeze.factor(layer, Moment(Clock(epoch=epoch), spine=layers)) for layer in layers])
        [1.0, 1.0, 1.0, 1.0]
        [0.01, 0.01, 0.1, 0.1]
        [0.0, 0.0, 0.0, 0.1]

    References:
        Seed document, strategy 9. Brock et al., `FreezeOut <https://arxiv.org/abs/1706.04983>`_, 2017.
    """

    basis = "phase"

    def __init__(
        self,
        phases: Sequence[tuple[str, float, float, float, float]] = PHASES,
        unit: Unit = "epoch",
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if any(len(phase) != 5 for phase in phases):
            raise ValueError(f"phases must be a list of (name, start, early, late, split), got {phases!r}")
        self.phases = [Phase(*phase) for phase in phases]
        starts = [phase.start for phase in self.phases]
        if not starts or starts[0] != 0:
            raise ValueError(f"the first phase must start at 0, got starts {starts}")
        if starts != sorted(set(starts)):
            raise ValueError(f"phases must be sorted by start, each another, got starts {starts}")
        for name, _, early, late, split in self.phases:
            if early < 0 or late < 0:
                raise ValueError(f"factors must be >= 0, got {early} and {late} in phase {name!r}")
            if not (0 < split < 1 or split == int(split)):
                raise ValueError(f"split must be a whole number or a share in (0, 1), got {split} in phase {name!r}")
        check_unit(unit)
        self.unit = unit

    def factor(self, component: Component, now: Moment) -> float:
        """The early or late factor of the phase."""
        time = now.clock.count(self.unit)
        _, _, early, late, split = [phase for phase in self.phases if phase.start <= time][-1]
        index, n = now.rank(component)
        first_late = split * n if 0 < split < 1 else n + split if split < 0 else split
        return early if index < first_late else late
