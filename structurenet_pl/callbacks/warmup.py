"""Warmup: scale the lr of a new component up from its birth on."""

from collections.abc import Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.structure.arguments import check_positive
from structurenet_pl.structure.events import Component, Unit


class Warmup(LRFactor):
    r"""Scale the lr of a component up linearly from its birth on.

    .. math:: f(a) = s + (1 - s) \cdot \min\left(1, \frac{a + 1}{L}\right)

    where :math:`a` is the age of the component, :math:`L` the length of the warm-up and :math:`s` the start. The seed
    has :math:`a / L` in place of :math:`(a + 1) / L`; with that formula a component would learn nothing at age 0.

    Args:
        length: Duration :math:`L` of the warm-up in ``unit``, > 0. With a length up to 1 nothing is warmed up, and a
            warning says so.
        unit: Unit of age: ``"step"``, ``"epoch"`` or ``"generation"`` (growth events).
        start: Factor :math:`s` at which the line starts, in [0, 1].
        newborn_only: Whether founding components, those older than the first growth event, keep factor 1.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If ``length`` is not positive, ``start`` is outside [0, 1] or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, Moment, Warmup
        >>> warmup = Warmup(length=5)
        >>> patch = Component("patches.0", born=Clock(epoch=10, generation=1))
        >>> [warmup.factor(patch, Moment(Clock(epoch=epoch))) for epoch in (10, 11, 14, 30)]
        [0.2, 0.4, 1.0, 1.0]

    References:
        Seed document, strategy 7 (``structurenet_pl.strategies``).
        Goyal et al., [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677),
        2017, section 2.2.
    """

    basis = "time since birth"

    def __init__(
        self,
        length: float = 5,
        unit: Unit = "epoch",
        start: float = 0.0,
        newborn_only: bool = True,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        check_positive("length", length, "for no warm-up, leave the callback out")
        if not 0 <= start <= 1:
            raise ValueError(f"start must be in [0, 1], got {start}")
        if length <= 1:
            rank_zero_warn(
                f"Warmup(length={length}) does nothing: the factor at age 0 is (0 + 1) / length, and so it is 1 from "
                "the start. Give it a length > 1, in steps, epochs or growth events (unit), or remove it."
            )
        self.length = length
        self.unit = unit
        self.start = start
        self.newborn_only = newborn_only

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's age."""
        if self.newborn_only and component.founding:
            return 1.0
        age = now.age(component).count(self.unit)
        return self.start + (1 - self.start) * min(1.0, (age + 1) / self.length)
