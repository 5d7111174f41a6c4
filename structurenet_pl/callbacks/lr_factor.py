"""LRFactor: one factor of the learning rate, as a callback."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from structurenet_pl.engine.attach import NeedsDriver
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, as_list


class LRFactor(NeedsDriver, ABC):
    r"""One factor of the learning rate of every component.

    .. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

    A factor of one's own is a subclass with :meth:`factor`, a pure function of the component and the moment; drop it
    into ``Trainer(callbacks=...)``. It keeps no state and touches no optimizer: clock and growth log are handed in, and
    one writer multiplies the factors of all callbacks and sets the lr from the base lr. Nothing compounds, and the
    order of callbacks does not matter.

    Args:
        where: Roles or name patterns of the components that it acts on; elsewhere its factor is 1. None for all.

    Raises:
        ValueError: If ``where`` is empty; in a fit, if a factor is negative or not finite.

    Example:
        >>> from structurenet_pl import Clock, Component, LRFactor, Moment
        >>> class HalveTheOld(LRFactor):
        ...     def factor(self, component, now):
        ...         return 0.5 if now.age(component).epoch >= 10 else 1.0
        >>> HalveTheOld(where="scaffold").applied(Component("stem", role="scaffold"), Moment(Clock(epoch=12)))
        0.5
        >>> HalveTheOld(where="scaffold").applied(Component("head", role="head"), Moment(Clock(epoch=12)))
        1.0
    """

    needs_gradients = False
    """Whether the factor reads ``now.norms``. It is then evaluated after backward, before the update."""
    skip_1d = False
    """Whether tensors of one dimension (biases, norms) stand in a group of their own, where the factor is 1."""
    basis: str | None = None
    """What it goes by, such as ``"age"``. If it says so, it is reported when another factor goes by the same on a
    component, and when its factor was 1 all through a run."""
    unit: Unit = "step"
    """The finest unit of time that the factor depends on: it is evaluated when that has moved, or the structure has."""
    freezes = False
    """Whether a component at factor 0 is frozen for true: no gradients, no backward pass where nothing before it needs
    one, and as ``norm`` and ``release_state`` say; see :class:`~structurenet_pl.ProgressiveFreeze`."""
    norm: Literal["eval", "train"] = "eval"
    """Whether norm layers of what it freezes keep their running statistics."""
    release_state: bool = False
    """Whether the optimizer state of what it freezes leaves the memory until the thaw."""
    where: str | Sequence[str] | None = None

    def __init__(self, where: str | Sequence[str] | None = None) -> None:
        if where is not None and not where:
            raise ValueError("where must name roles or patterns, or be None to act everywhere; got nothing")
        self.where = where

    @abstractmethod
    def factor(self, component: Component, now: Moment) -> float:
        """The factor of a component at a moment; finite, >= 0, and nothing but a function of the two.

        It is evaluated once for all components that are alike in what it reads of them.
        """

    def acts_on(self, component: Component) -> bool:
        """Whether ``where`` includes the component."""
        return self.where is None or any(map(component.matches, as_list(self.where)))

    def applied(self, component: Component, now: Moment) -> float:
        """The factor where the callback acts, in view of the components that it acts on; 1 elsewhere."""
        if not self.acts_on(component):
            return 1.0
        return self.checked(component, replace(now, components=tuple(filter(self.acts_on, now.components))))

    def checked(self, component: Component, now: Moment) -> float:
        """The factor, if it is one."""
        value = self.factor(component, now)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(
                f"{type(self).__name__} gave component {component.name!r} the factor {value!r} at {now.clock}; factors "
                "must be finite numbers >= 0"
            )
        return value
