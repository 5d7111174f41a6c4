"""Growth calms what is around it."""

import math
from collections.abc import Mapping, Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, check_unit


class GrowthResponder(LRFactor):
    r"""Lower learning rates after every growth event, by how near a component was to it.

    .. math:: f = \max\left(m, \prod_{e} 1 - (1 - d_e) \cdot 2^{-t_e / h}\right)

    over the events :math:`e` since the birth of the component, its own included, where :math:`d_e` is the dip by
    proximity (or by role), :math:`t_e` the time since the event, :math:`h` the recovery half-life and :math:`m` the
    floor. Without recovery :math:`2^{-t_e/h}` is 1 and the factor only ever shrinks, as in the seed.

    Args:
        grown: Dip of components that were born or widened in the event.
        adjacent: Dip of components next to what was born or widened: those whose depth differed by at most 1 when the
            event happened, or that ``@growth(adjacent=...)`` named.
        distant: Dip of all others.
        roles: Role -> dip, in place of proximity; 1 for a role that is not listed. The seed's strategy 6 is
            ``{"scaffold": 0.5, "new": 1.0}``.
        recovery: Half-life of a dip, in ``unit``, > 0; None for dips that stay.
        unit: What time since an event is counted in: ``"step"``, ``"epoch"`` or ``"generation"``.
        floor: Least value of the factor.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If a dip or the floor is negative, ``recovery`` is not positive, or ``unit`` is unknown.

    Example:
        >>> from structurenet_pl import Clock, Component, GrowthEvent, GrowthResponder, Moment
        >>> birth = GrowthEvent("add_patch", {}, Clock(epoch=4, generation=1), born=("patches.0",), adjacent=("stem",))
        >>> stem, head = Component("stem"), Component("head", depth=5)
        >>> now = Moment(Clock(epoch=6, generation=1), log=(birth,))
        >>> [GrowthResponder().factor(component, now) for component in (stem, head)]
        [0.7, 0.5]
        >>> GrowthResponder(recovery=2).factor(head, now)
        0.75

    References:
        Seed document, strategies 6 and 10; the seed has no recovery.
    """

    basis = "growth events"

    def __init__(
        self,
        grown: float = 0.9,
        adjacent: float = 0.7,
        distant: float = 0.5,
        roles: Mapping[str, float] | None = None,
        recovery: float | None = None,
        unit: Unit = "epoch",
        floor: float = 0.0,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        values = {"grown": grown, "adjacent": adjacent, "distant": distant, "floor": floor, **(roles or {})}
        if negative := {name: value for name, value in values.items() if value < 0}:
            raise ValueError(f"dips and floor must be >= 0, got {negative}")
        if recovery is not None and recovery <= 0:
            raise ValueError(f"recovery must be a half-life > 0, or None for dips that stay; got {recovery}")
        check_unit(unit)
        self.grown = grown
        self.adjacent = adjacent
        self.distant = distant
        self.roles = None if roles is None else dict(roles)
        self.recovery = recovery
        self.unit = unit
        self.floor = floor

    def factor(self, component: Component, now: Moment) -> float:
        """The product of the dips of the component's lifetime, as far as they last."""
        if self.roles is None:
            dip_of = {"grown": self.grown, "adjacent": self.adjacent, "distant": self.distant}
            dips = [dip_of[nearness] for nearness in now.nearness(component)]
        else:
            dips = [self.roles.get(component.role or "", 1.0)] * len(now.events_since_birth(component))
        if self.recovery is not None and dips:
            lasting = now.once(self, self._lasting)[-len(dips) :]
            dips = [1 - (1 - dip) * share for dip, share in zip(dips, lasting, strict=True)]
        return max(self.floor, math.prod(dips, start=1.0))

    def _lasting(self, now: Moment) -> list[float]:
        """The share of each dip that is left, of all growth events so far."""
        assert self.recovery is not None
        clocks = [event.clock for event in now.log if event.clock.generation <= now.clock.generation]
        passed = [now.clock.since(clock).count(self.unit) for clock in clocks]
        return [0.5 ** (time / self.recovery) for time in passed]
