"""Each role at its own rate."""

from collections.abc import Mapping, Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component

FACTORS = {"scaffold": 0.1, "patch": 0.5, "neck": 1.0, "new": 1.0, "pretrained": 0.01, "adapter": 0.5}


class RoleLR(LRFactor):
    r"""Give each role a factor of its own.

    .. math:: f = \text{factors}[\text{role}], \qquad\text{or}\quad \text{factors}[\text{role}] / \eta

    with a base lr :math:`\eta`, for tables of absolute learning rates; 1 for a role that is not listed. The defaults
    are the tables of the seed at a base lr of 1e-3.

    Args:
        factors: Role -> factor, or -> absolute lr if ``base_lr`` is given.
        base_lr: The lr of the optimizer that absolute rates are divided by, > 0. The result still follows the LR
            scheduler: the rates are those at the start of its schedule.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If a factor is negative, there is none, or ``base_lr`` is not positive.

    Example:
        >>> from structurenet_pl import Component, Moment, RoleLR
        >>> RoleLR().factor(Component("encoder", role="pretrained"), Moment())
        0.01
        >>> RoleLR({"adapter": 5e-4}, base_lr=1e-3).factor(Component("bridge", role="adapter"), Moment())
        0.5

    References:
        Seed document, strategies 2, 4 and 5.
    """

    basis = "role"
    unit = "generation"

    def __init__(
        self,
        factors: Mapping[str, float] = FACTORS,
        base_lr: float | None = None,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if not factors:
            raise ValueError("factors must give a factor to at least one role, got none")
        if negative := {role: factor for role, factor in factors.items() if factor < 0}:
            raise ValueError(f"factors must be >= 0, got {negative}")
        if base_lr is not None and base_lr <= 0:
            raise ValueError(f"base_lr must be > 0, or None for factors that are relative; got {base_lr}")
        self.factors = dict(factors)
        self.base_lr = base_lr

    def factor(self, component: Component, now: Moment) -> float:
        """The factor of the component's role."""
        if component.role not in self.factors:
            return 1.0
        return self.factors[component.role] / (1.0 if self.base_lr is None else self.base_lr)
