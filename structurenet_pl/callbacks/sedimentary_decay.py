"""SedimentaryDecay: scale the lr of a component down in steps as it ages."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least, items_of
from structurenet_pl.structure.events import Component, Unit


class Stratum(NamedTuple):
    """An interval of ages with one factor; it ends where the next one starts."""

    name: str
    start: float
    factor: float


DEFAULT_STRATA = (("active", 0, 1.0), ("sediment", 20, 0.1), ("geological", 100, 0.01))
DEFAULT_ROLE_FACTORS = {"patch": 0.5}


class SedimentaryDecay(LRFactor):
    r"""Scale the lr of a component down in steps as it ages.

    .. math:: f(a) = s_k, \qquad k = \max \{ j : A_j \le a \}

    where :math:`a` is the age of the component, and stratum :math:`j` starts at age :math:`A_j` with factor
    :math:`s_j`. A component born later passes through the same strata later. The seed gives absolute learning rates:
    1e-3, 1e-4 and 1e-5 for the strata, 5e-4 for patches. The default factors give these at a base lr of 1e-3.

    Args:
        strata: Strata in order of age, each as ``(name, start age in unit, factor)``; the first one starts at age 0.
        unit: Unit of age: ``"step"``, ``"epoch"`` or ``"generation"`` (growth events).
        roles: Map from role to a constant factor, >= 0; components with such a role do not pass through the strata.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If the strata do not start at age 0 or are not sorted by age, two have the same name, a factor is
            negative, or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, Moment, SedimentaryDecay
        >>> decay = SedimentaryDecay()
        >>> stem, patch = Component("stem"), Component("patches.0", role="patch")
        >>> [decay.factor(stem, Moment(Clock(epoch=epoch))) for epoch in (0, 19, 20, 100)]
        [1.0, 1.0, 0.1, 0.01]
        >>> decay.stratum(stem, Moment(Clock(epoch=50)))
        'sediment'
        >>> decay.stratum(patch, Moment(Clock(epoch=50))), decay.factor(patch, Moment(Clock(epoch=50)))
        ('patch', 0.5)

    References:
        Seed document, strategy 12 (``structurenet_pl.strategies``).
    """

    basis = "age"

    def __init__(
        self,
        strata: Sequence[tuple[str, float, float]] = DEFAULT_STRATA,
        unit: Unit = "epoch",
        roles: Mapping[str, float] = DEFAULT_ROLE_FACTORS,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        self.strata = [Stratum(*stratum) for stratum in strata]
        names = [stratum.name for stratum in self.strata]
        starts = [stratum.start for stratum in self.strata]
        if not starts or starts[0] != 0:
            raise ValueError(f"the first stratum must start at age 0, got starts {starts}")
        if starts != sorted(set(starts)):
            raise ValueError(f"strata must be sorted by start age, without duplicates; got starts {starts}")
        if len(set(names)) < len(names):
            raise ValueError(f"strata must have different names, got {names}")
        check_at_least(0, {f"the factor of {stratum.name!r}": stratum.factor for stratum in self.strata})
        check_at_least(0, items_of("roles", roles))
        self.unit = unit
        self.roles = dict(roles)
        self.looks_for = [role for role in roles if role not in DEFAULT_ROLE_FACTORS]  # those need not be there

    def stratum(self, component: Component, now: Moment) -> str:
        """Return the name of the component's stratum, or its role if this role has a constant factor."""
        return component.role if component.role in self.roles else self._stratum_at(component, now).name

    def stratum_number(self, component: Component, now: Moment) -> int | None:
        """Return the number of the component's stratum, 0 for the first; None if its role has a constant factor."""
        return None if component.role in self.roles else self.strata.index(self._stratum_at(component, now))

    def factor(self, component: Component, now: Moment) -> float:
        """Return the constant factor of the component's role, or else the factor of its stratum."""
        if component.role in self.roles:
            return self.roles[component.role]
        return self._stratum_at(component, now).factor

    def _stratum_at(self, component: Component, now: Moment) -> Stratum:
        age = now.age(component).count(self.unit)
        return [stratum for stratum in self.strata if stratum.start <= age][-1]  # the first one starts at age 0
