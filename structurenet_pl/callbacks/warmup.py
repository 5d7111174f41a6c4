"""What is born starts slowly."""

from collections.abc import Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, check_unit


class Warmup(LRFactor):
    r"""Raise the learning rate of a component linearly over the first part of its life.

    .. math:: f(a) = s + (1 - s) \cdot \min\left(1, \frac{a + 1}{L}\right)

    where :math:`a` is the age of the component, :math:`L` the length and :math:`s` the start. The count begins at 1:
    with :math:`a / L`, as the seed has it, nothing would be learned at age 0.

    Args:
        length: Duration :math:`L` of the warm-up in ``unit``, > 0.
        unit: What age is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        start: Factor :math:`s` that the line starts from, in [0, 1].
        newborn_only: Whether components that were there before the first growth event keep factor 1.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If ``length`` is not positive, ``start`` is outside [0, 1] or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, Moment, Warmup
        >>> warmup = Warmup(length=5)
        >>> patch = Component("patches.0", born=Clock(epoch=10, generation=1))
        >>> [warmup.factor(patch, Moment(Clock(epoch=epoch))) for epoch in (10, 11, 14, 30)]
        [0.2, 0.4, 1.0, 1.0]

    References:
        Seed document, strategy 7. Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_,
        2017, section 2.2.
    """

    basis = "birth"

    def __init__(
        self,
        length: float = 5,
        unit: Unit = "epoch",
        start: float = 0.0,
        newborn_only: bool = True,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if length <= 0:
            raise ValueError(f"length must be > 0, got {length}; to do without warm-up leave the callback out")
        if not 0 <= start <= 1:
            raise ValueError(f"start must be in [0, 1], got {start}")
        check_unit(unit)
        self.length = length
        self.unit = unit
        self.start = start
        self.newborn_only = newborn_only

    def factor(self, component: Component, now: Moment) -> float:
        """The factor at the component's age."""
        if self.newborn_only and component.founding:
            return 1.0
        age = now.age(component).count(self.unit)
        return self.start + (1 - self.start) * min(1.0, (age + 1) / self.length)
