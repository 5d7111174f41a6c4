"""What is older learns slower."""

from collections.abc import Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, check_unit


class AgeDecay(LRFactor):
    r"""Lower the learning rate of a component exponentially with its age.

    .. math:: f(a) = \max\left(m, \gamma^{\lfloor a / p \rfloor}\right)

    where :math:`a` is the age of the component, :math:`p` the time that one decay takes and :math:`m` the floor. By
    default age is counted in growth events: "10x decay per growth phase", as the seed's comment has it, where its code
    counts epochs.

    Args:
        gamma: Decay :math:`\gamma` per period, >= 0.
        per: Length :math:`p` of a period in ``unit``, > 0.
        unit: What age is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        floor: Least value :math:`m` of the factor, >= 0.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If ``gamma`` or ``floor`` is negative, ``per`` is not positive, or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import AgeDecay, Clock, Component, Moment
        >>> [AgeDecay().factor(Component("stem"), Moment(Clock(generation=generation))) for generation in (0, 1)]
        [1.0, 0.1]

    References:
        Seed document, strategy 3.
    """

    basis = "age"

    def __init__(
        self,
        gamma: float = 0.1,
        per: float = 1,
        unit: Unit = "generation",
        floor: float = 0.0,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}")
        if per <= 0:
            raise ValueError(f"per must be > 0, got {per}")
        if floor < 0:
            raise ValueError(f"floor must be >= 0, got {floor}")
        check_unit(unit)
        self.gamma = gamma
        self.per = per
        self.unit = unit
        self.floor = floor

    def factor(self, component: Component, now: Moment) -> float:
        """The factor at the component's age."""
        age = now.age(component).count(self.unit)
        return max(self.floor, float(self.gamma) ** (age // self.per))
