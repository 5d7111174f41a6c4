"""AgeDecay: scale the lr of a component down with its age."""

from collections.abc import Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least, check_positive
from structurenet_pl.structure.events import Component, Unit


class AgeDecay(LRFactor):
    r"""Scale the lr of a component down exponentially with its age.

    .. math:: f(a) = \max\left(m, \gamma^{\lfloor a / p \rfloor}\right)

    where :math:`a` is the age of the component, :math:`p` the length of a period and :math:`m` the floor. The default
    unit of age is the growth event. The seed is ambiguous here: its comment says "10x decay per growth phase", and its
    code counts epochs.

    Args:
        gamma: Decay :math:`\gamma` per period, >= 0.
        per: Length :math:`p` of a period in ``unit``, > 0.
        unit: Unit of age: ``"step"``, ``"epoch"`` or ``"generation"`` (growth events).
        floor: Lower bound :math:`m` of the factor, >= 0.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If ``gamma`` or ``floor`` is negative, ``per`` is not positive, or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import AgeDecay, Clock, Component, Moment
        >>> [AgeDecay().factor(Component("stem"), Moment(Clock(generation=generation))) for generation in (0, 1)]
        [1.0, 0.1]

    References:
        Seed document, strategy 3 (``structurenet_pl.strategies``).
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
        check_at_least(0, {"gamma": gamma, "floor": floor})
        check_positive("per", per)
        self.gamma = gamma
        self.per = per
        self.unit = unit
        self.floor = floor

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's age."""
        age = now.age(component).count(self.unit)
        # an int gamma (from YAML) to the power of an int would be an int, and a factor is a float
        return max(self.floor, float(self.gamma) ** (age // self.per))
