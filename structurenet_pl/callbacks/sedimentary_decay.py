"""Old strata learn slowly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, check_unit


class Stratum(NamedTuple):
    """An interval of ages with one factor."""

    name: str
    start: float
    factor: float


STRATA = (("active", 0, 1.0), ("sediment", 20, 0.1), ("geological", 100, 0.01))
ROLES = {"patch": 0.5}


class SedimentaryDecay(LRFactor):
    r"""Lower the learning rate of a component in steps as it ages.

    .. math:: f(a) = s_k, \qquad k = \max \{ j : A_j \le a \}

    where :math:`a` is the age of the component, and stratum :math:`j` starts at age :math:`A_j` with factor
    :math:`s_j`. A component born late sinks through the same strata later. The seed gives absolute rates, 1e-3, 1e-4,
    1e-5 and 5e-4 for patches: these are the defaults at a base lr of 1e-3.

    Args:
        strata: ``(name, start age in unit, factor)`` of each stratum, in order of age, the first one from age 0.
        unit: What age is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        roles: Role -> constant factor that takes the place of the strata for components of that role.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If the strata do not start at age 0 or are not sorted by age, a name comes twice, a factor is
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
        Seed document, strategy 12.
    """

    basis = "age"

    def __init__(
        self,
        strata: Sequence[tuple[str, float, float]] = STRATA,
        unit: Unit = "epoch",
        roles: Mapping[str, float] = ROLES,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if isinstance(strata, Mapping) or any(len(stratum) != 3 for stratum in strata):
            raise ValueError(f"strata must be a list of (name, start age, factor), got {strata!r}")
        self.strata = [Stratum(*stratum) for stratum in strata]
        names = [stratum.name for stratum in self.strata]
        starts = [stratum.start for stratum in self.strata]
        if not starts or starts[0] != 0:
            raise ValueError(f"the first stratum must start at age 0, got starts {starts}")
        if starts != sorted(set(starts)):
            raise ValueError(f"strata must be sorted by the age they start at, each another, got starts {starts}")
        if len(set(names)) < len(names):
            raise ValueError(f"strata must have different names, got {names}")
        factors = {**{stratum.name: stratum.factor for stratum in self.strata}, **roles}
        if negative := {name: factor for name, factor in factors.items() if factor < 0}:
            raise ValueError(f"factors must be >= 0, got {negative}")
        check_unit(unit)
        self.unit = unit
        self.roles = dict(roles)

    def stratum(self, component: Component, now: Moment) -> str:
        """Name of the stratum that the component has reached, or its role if that has a factor of its own."""
        return component.role if component.role in self.roles else self._reached(component, now).name

    def stratum_number(self, component: Component, now: Moment) -> int | None:
        """Number of that stratum, 0 for the first; None for a role with a factor of its own."""
        return None if component.role in self.roles else self.strata.index(self._reached(component, now))

    def factor(self, component: Component, now: Moment) -> float:
        """The factor of the component's role, or of the stratum it has reached."""
        if component.role in self.roles:
            return self.roles[component.role]
        return self._reached(component, now).factor

    def _reached(self, component: Component, now: Moment) -> Stratum:
        age = now.age(component).count(self.unit)
        return [stratum for stratum in self.strata if stratum.start <= age][-1]
