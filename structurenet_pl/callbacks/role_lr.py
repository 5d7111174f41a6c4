"""RoleLR: scale the lr of a component by its role."""

from collections.abc import Mapping, Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least, check_positive, items_of
from structurenet_pl.structure.events import Component

DEFAULT_FACTORS = {"scaffold": 0.1, "patch": 0.5, "neck": 1.0, "new": 1.0, "pretrained": 0.01, "adapter": 0.5}


class RoleLR(LRFactor):
    r"""Scale the lr of a component by a factor for its role.

    .. math:: f = \text{factors}[\text{role}], \qquad\text{or}\quad \text{factors}[\text{role}] / \eta

    The second formula is for tables of absolute learning rates, with :math:`\eta` the base lr. A role that is not in
    the table has factor 1. The default factors are the tables of the seed, divided by a base lr of 1e-3.

    Args:
        factors: Map from role to factor, >= 0; from role to absolute lr if ``base_lr`` is given.
        base_lr: Base lr :math:`\eta` of the optimizer, > 0, by which absolute learning rates are divided; None if
            ``factors`` holds factors. The effective lr still follows the LR scheduler: the absolute learning rates hold
            at the start of the schedule.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If ``factors`` is empty or has a negative value, or ``base_lr`` is not positive.

    Example:
        >>> from structurenet_pl import Component, Moment, RoleLR
        >>> RoleLR().factor(Component("encoder", role="pretrained"), Moment())
        0.01
        >>> RoleLR({"adapter": 5e-4}, base_lr=1e-3).factor(Component("bridge", role="adapter"), Moment())
        0.5

    References:
        Seed document, strategies 2, 4 and 5 (``structurenet_pl.strategies``).
    """

    basis = "role"
    unit = "generation"

    def __init__(
        self,
        factors: Mapping[str, float] = DEFAULT_FACTORS,
        base_lr: float | None = None,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if not factors:
            raise ValueError("factors must give a factor to at least one role, as in {'new': 0.5}, got {}")
        check_at_least(0, items_of("factors", factors))
        if base_lr is not None:
            check_positive("base_lr", base_lr, "if the values are factors and no learning rates, leave it out")
        self.factors = dict(factors)
        self.looks_for = [role for role in factors if role not in DEFAULT_FACTORS]  # those need not be there
        self.base_lr = base_lr

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's role."""
        if component.role not in self.factors:
            return 1.0
        return self.factors[component.role] / (1.0 if self.base_lr is None else self.base_lr)
