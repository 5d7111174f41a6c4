"""ProgressiveFreeze: scale the lr of components down and freeze them in phases, from the input on."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import Component, Unit


class Phase(NamedTuple):
    """An interval of time with one factor for early components and one for late components."""

    name: str
    start: float
    early: float
    late: float
    split: float


DEFAULT_PHASES = (
    ("warmup", 0, 1.0, 1.0, 0),
    ("refinement", 10, 0.01, 0.1, 2),
    ("final", 30, 0.0, 0.1, -1),
)


class ProgressiveFreeze(LRFactor):
    r"""Scale the lr of components down in phases, from the input on, and freeze components with factor 0.

    .. math:: f = \begin{cases} \text{early}_p & i < \text{split}_p \\ \text{late}_p & \text{otherwise} \end{cases}

    where :math:`p` is the last phase that has started and :math:`i` the index of the component's depth among the
    distinct depths of the network; with several optimizers, depths are counted for each of them.

    The parameters of a frozen component have ``requires_grad=False`` and no gradient. So no optimizer changes them,
    they do not count in the gradient norm for clipping, and the backward pass stops where no earlier component trains.
    Phase and depth alone decide which components are frozen: this holds at the start of a phase, after growth has
    changed the depths, and when a run is resumed. A later phase with another factor thaws a component. Parameters that
    you froze yourself stay frozen. After the fit, components that were frozen at its end keep ``requires_grad=False``
    until the next fit with a callback or module of this package.

    Limits:

    - Dropout in a frozen component stays on. To switch it off, call ``eval()`` on it; Lightning keeps this mode.
    - Buffers that your own module updates in its forward pass are still updated.
    - If every component of an optimizer would be frozen, the last one gets lr 0 instead, with a warning, because the
      backward pass raises an error if no parameter needs a gradient.
    - Under strategies that do not support a change of ``requires_grad`` (FSDP, DeepSpeed), components get lr 0 instead,
      with a warning.
    - Reentrant gradient checkpointing gives no gradients to the components after a frozen one: use
      ``use_reentrant=False``.

    Args:
        phases: Phases in order of time, each as ``(name, start in unit, early factor, late factor, split)``; the first
            one starts at 0. A split ``k >= 0`` makes the first ``k`` depths early, a split ``-k`` makes the last ``k``
            depths late, and a split in (0, 1) is the share of early depths.
        unit: Unit of the start of a phase: ``"step"``, ``"epoch"`` or ``"generation"`` (growth events).
        norm: ``"eval"``: norm layers in a frozen component use their running statistics and do not change them, even
            after a call of ``train()``; ``"train"``: they continue to update their running statistics.
        release_state: Whether the optimizer state of frozen parameters is moved from memory to a temporary file. The
            thaw moves it back. Checkpoints contain it in either case.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If the phases do not start at 0 or are not sorted by time, a factor is negative, a split is neither
            a whole number nor in (0, 1), or ``unit`` or ``norm`` is unknown.

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
        Seed document, strategy 9 (``structurenet_pl.strategies``).
        Brock et al., [FreezeOut](https://arxiv.org/abs/1706.04983), 2017.
    """

    basis = "phase"
    freezes = True

    def __init__(
        self,
        phases: Sequence[tuple[str, float, float, float, float]] = DEFAULT_PHASES,
        unit: Unit = "epoch",
        norm: Literal["eval", "train"] = "eval",
        release_state: bool = False,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        self.phases = [Phase(*phase) for phase in phases]
        starts = [phase.start for phase in self.phases]
        if not starts or starts[0] != 0:
            raise ValueError(f"the first phase must start at 0, got starts {starts}")
        if starts != sorted(set(starts)):
            raise ValueError(f"phases must be sorted by start, without duplicates; got starts {starts}")
        for name, _, early, late, split in self.phases:
            check_at_least(0, {f"early in phase {name!r}": early, f"late in phase {name!r}": late})
            if not (0 < split < 1 or float(split).is_integer()):
                raise ValueError(f"split must be a whole number or a share in (0, 1), got {split} in phase {name!r}")
        self.unit = unit
        self.norm = norm
        self.release_state = release_state

    def factor(self, component: Component, now: Moment) -> float:
        """Return the early or the late factor of the current phase."""
        time = now.clock.count(self.unit)
        phase = [phase for phase in self.phases if phase.start <= time][-1]
        index, n = now.rank(component)
        # index of the first late depth: from a share, from the output, or as given
        first_late = phase.split * n if 0 < phase.split < 1 else n + phase.split if phase.split < 0 else phase.split
        return phase.early if index < first_late else phase.late
