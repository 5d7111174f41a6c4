"""GrowthResponder: scale the lr of components down after growth events near them."""

import math
from collections.abc import Mapping, Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least, check_positive, items_of
from structurenet_pl.structure.events import Component, Unit


class GrowthResponder(LRFactor):
    r"""Scale the lr of a component down after each growth event, by its distance from the event.

    .. math:: f = \max\left(m, \prod_{e} 1 - (1 - d_e) \cdot 2^{-t_e / h}\right)

    The product is over the events :math:`e` since the birth of the component, its own birth included. The dip
    :math:`d_e` is the factor right after the event, by distance (or by role); :math:`t_e` is the time since the event,
    :math:`h` the half-life of recovery and :math:`m` the floor. Without recovery, :math:`2^{-t_e/h}` is 1, and each
    event with a dip below 1 lowers the factor further, as in the seed.

    Args:
        grown: Dip of components that were born or widened in the event, >= 0.
        adjacent: Dip of components next to those, >= 0: the components that ``@growth(adjacent=...)`` names, or else
            those whose depth differed by at most 1 when the event happened.
        distant: Dip of all other components, >= 0.
        roles: Map from role to dip, >= 0, in place of the dips by distance; 1 for a role that is not listed. The seed's
            strategy 6 is ``{"scaffold": 0.5, "new": 1.0}``.
        recovery: Half-life :math:`h` of a dip in ``unit``, > 0; None for permanent dips.
        unit: Unit of the time since an event: ``"step"``, ``"epoch"`` or ``"generation"`` (growth events).
        floor: Lower bound :math:`m` of the factor, >= 0.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

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
        Seed document, strategies 6 and 10 (``structurenet_pl.strategies``); the seed has no recovery.
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
        check_at_least(0, {"grown": grown, "adjacent": adjacent, "distant": distant, "floor": floor})
        check_at_least(0, items_of("roles", roles))
        if recovery is not None:
            check_positive("recovery", recovery, "it is a half-life: for permanent dips, leave it out")
        self.grown = grown
        self.adjacent = adjacent
        self.distant = distant
        self.roles = None if roles is None else dict(roles)
        self.recovery = recovery
        self.unit = unit
        self.floor = floor

    def factor(self, component: Component, now: Moment) -> float:
        """Return the product of the dips since the component's birth, each as far as it has not recovered."""
        if self.roles is None:
            dip_of = {"grown": self.grown, "adjacent": self.adjacent, "distant": self.distant}
            dips = [dip_of[nearness] for nearness in now.nearness(component)]
        else:
            dips = [self.roles.get(component.role or "", 1.0)] * len(now.events_since_birth(component))
        if self.recovery is not None and dips:
            # the dips of a component belong to the last events of the log, because its lifetime lasts until now
            remaining = now.once(self, self._remaining_shares)[-len(dips) :]
            dips = [1 - (1 - dip) * share for dip, share in zip(dips, remaining, strict=True)]
        return max(self.floor, math.prod(dips, start=1.0))

    def _remaining_shares(self, now: Moment) -> list[float]:
        """Return the share of a dip that has not recovered yet, for each growth event so far.

        The shares are the same for all components, so ``Moment.once`` computes them once for all components.
        """
        assert self.recovery is not None  # for the type checker
        clocks = [event.clock for event in now.log if event.clock.generation <= now.clock.generation]
        passed = [now.clock.since(clock).count(self.unit) for clock in clocks]
        return [0.5 ** (time / self.recovery) for time in passed]
