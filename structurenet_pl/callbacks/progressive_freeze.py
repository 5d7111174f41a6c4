"""Early components come to rest first."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, check_unit


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
    distinct depths of the network.

    A component with factor 0 is frozen for true: its parameters have ``requires_grad=False`` and no gradient, so no
    optimizer moves them, they take no part in the norm that gradients are clipped by, and the backward pass ends where
    nothing before it is trained. What is frozen follows from phase and depth alone: at the start of a phase, after
    growth has moved the depths, and when a run is resumed. A later phase thaws; what you have frozen yourself stays
    frozen. When the fit is over, what was frozen last has ``requires_grad=False`` until the next fit with a callback or
    module of this package.

    Dropout inside a frozen component is left as it is: call ``eval()`` on it if it should be off, Lightning keeps that.
    So are buffers that a module of your own updates in its forward pass. If every component of an optimizer is to be
    frozen, the last one gets lr 0 and a warning instead: without any gradient the backward pass would raise. Under
    strategies that cannot follow (FSDP, DeepSpeed) all are frozen by lr 0, with a warning. Reentrant gradient
    checkpointing gives no gradients to what follows a frozen component: use ``use_reentrant=False``.

    Args:
        phases: ``(name, start in unit, early factor, late factor, split)`` of each phase, in order of time, the first
            one from 0. A split >= 1 or <= -1 counts depths, from the output if negative; one in (0, 1) is a share of
            them; 0 means that all are late.
        unit: What the start of a phase is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        norm: ``"eval"``: norm layers with running statistics use these in a frozen component, and leave them as they
            are, whoever calls ``train()``; ``"train"``: they go on adapting to the data.
        release_state: Whether the optimizer state of frozen parameters leaves the memory, for a temporary file. The
            thaw brings it back, and checkpoints hold it in any case.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If the phases do not start at 0 or are not sorted, a factor is negative, a split is neither a whole
            number nor in (0, 1), or ``unit`` or ``norm`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, Moment, ProgressiveFreeze
        >>> layers = tuple(Component(f"layers.{depth}", depth=depth) for depth in range(4))
        >>> freeze = ProgressiveFreeze()
        >>> for epoch in (0, 10, 30):
        ...     print([freeze.factor(layer, Moment(Clock(epoch=epoch), components=layers)) for layer in layers])
        [1.0, 1.0, 1.0, 1.0]
        [0.01, 0.01, 0.1, 0.1]
        [0.0, 0.0, 0.0, 0.1]

    References:
        Seed document, strategy 9. Brock et al., `FreezeOut <https://arxiv.org/abs/1706.04983>`_, 2017.
    """

    basis = "phase"
    freezes = True

    def __init__(
        self,
        phases: Sequence[tuple[str, float, float, float, float]] = PHASES,
        unit: Unit = "epoch",
        norm: Literal["eval", "train"] = "eval",
        release_state: bool = False,
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
        if norm not in ("eval", "train"):
            raise ValueError(f"norm must be 'eval' or 'train', got {norm!r}")
        self.unit = unit
        self.norm = norm
        self.release_state = release_state

    def factor(self, component: Component, now: Moment) -> float:
        """The early or late factor of the phase."""
        time = now.clock.count(self.unit)
        _, _, early, late, split = [phase for phase in self.phases if phase.start <= time][-1]
        index, n = now.rank(component)
        first_late = split * n if 0 < split < 1 else n + split if split < 0 else split
        return early if index < first_late else late
