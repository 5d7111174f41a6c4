"""GrowthResponder: scale the lr of components down after growth events near them."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment, Nearness
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
        self.looks_for = tuple(roles or ())
        self.recovery = recovery
        self.unit = unit
        self.floor = floor

    def factor(self, component: Component, now: Moment) -> float:
        """Return the product of the dips since the component's birth, each as far as it has not recovered."""
        if self.roles is None:
            nearness = now.nearness(component)
            dips = now.once_per_growth((self, nearness), lambda: self._dips(nearness))
        else:
            dips = np.full(len(now.events_since_birth(component)), self.roles.get(component.role or "", 1.0))
        if self.recovery is not None and len(dips):
            # the dips of a component belong to the last events of the log, because its lifetime lasts until now
            dips = 1 - (1 - dips) * now.once(self, self._remaining_shares)[-len(dips) :]
        return max(self.floor, float(np.multiply.reduce(dips)))

    def _dips(self, nearness: Sequence[Nearness]) -> NDArray[np.float64]:
        """Return the dip of each event."""
        dip_of = {"grown": self.grown, "adjacent": self.adjacent, "distant": self.distant}
        return np.array([dip_of[near] for near in nearness], dtype=np.float64)

    def _remaining_shares(self, now: Moment) -> NDArray[np.float64]:
        """Return the share of a dip that has not recovered yet, for each growth event so far."""
        times = now.once_per_growth(self, lambda: self._times(now))
        # growth after the last batch of an epoch counts as growth of the next epoch, which lies in the future
        passed = np.maximum(0, now.clock.count(self.unit) - times)
        return 0.5 ** (passed / cast(float, self.recovery))

    def _times(self, now: Moment) -> NDArray[np.float64]:
        """Return the time of each growth event so far."""
        clocks = [event.clock for event in now.log if event.clock.generation <= now.clock.generation]
        return np.array([clock.count(self.unit) for clock in clocks], dtype=np.float64)
