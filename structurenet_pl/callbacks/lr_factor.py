"""LRFactor: the base of all callbacks that scale the lr of components."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from structurenet_pl.engine.attach import NeedsDriver
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.events import Component, Unit, as_list
from structurenet_pl.structure.role_patterns import selects


class LRFactor(NeedsDriver, ABC):
    r"""Scale the lr of each component by one factor; the abstract base class of all factors.

    .. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

    where :math:`\eta_c(t)` is the effective lr of component :math:`c` at time :math:`t`, :math:`\eta^{base}(t)` the lr
    that optimizer and LR scheduler give, and :math:`f_k` the factor of the :math:`k`-th callback.

    To write your own factor, subclass this class, define ``factor`` as a pure function of the component and the
    moment, and add the callback to ``Trainer(callbacks=...)``. A factor keeps no state and changes no optimizer. The
    moment gives it the clock and the growth log; the package multiplies the factors of all callbacks and sets the lr,
    always from the base lr and never from the previous lr. So factors do not accumulate over steps, and the order of
    callbacks does not matter.

    Args:
        where: Roles or name patterns of the components that the factor acts on; None for all components, ``"!head"``
            for all but those that match ``"head"``. The factor of all other components is 1.

    Raises:
        ValueError: If ``where`` is empty, or an argument does not fit its annotation; the arguments of your own factor
            are checked, too, as far as annotations name plain data. During the fit: if a factor is negative or not
            finite.

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
    """Whether the factor reads ``now.norms``. The factor is then evaluated between the backward pass and the update."""
    skip_1d = False
    """Whether the factor of tensors with one dimension (biases, norms) is 1. These get a param group of their own."""
    basis: str | None = None
    """Quantity that the factor depends on, such as ``"age"``. If set, the package reports when another factor with the
    same basis acts on the same component, and when the factor has been 1 during a whole run."""
    unit: Unit = "step"
    """Finest unit of time that the factor depends on. The factor is evaluated again when the time in this unit or the
    structure of the network has changed."""
    freezes = False
    """Whether a component with factor 0 is frozen: its parameters get no gradients, and the backward pass skips it if
    no earlier component needs gradients; see ``ProgressiveFreeze``."""
    norm: Literal["eval", "train"] = "eval"
    """Whether norm layers in frozen components keep their running statistics (``"eval"``) or update them."""
    release_state: bool = False
    """Whether the optimizer state of frozen parameters is moved from memory to a temporary file until the thaw."""
    looks_for: str | Sequence[str] = ()
    """Roles and name patterns that other arguments than ``where`` name. The package warns if no component has them."""
    where: str | Sequence[str] | None = None  # a default, in case the __init__ of a subclass does not set it

    def __init__(self, where: str | Sequence[str] | None = None) -> None:
        if where is not None and not where:
            raise ValueError(f"where must name roles or patterns, or be None for all components; got {where!r}")
        self.where = where

    @abstractmethod
    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor of a component at a moment: finite, >= 0, and a function of these two arguments only.

        The package evaluates the factor once for all components with the same values of the attributes that it reads.

        Args:
            component: The component: name, role, depth, birth.
            now: The moment: clock, growth log, all components, and methods such as ``now.age(component)``.
        """

    def acts_on(self, component: Component) -> bool:
        """Return whether ``where`` includes the component."""
        return self.where is None or selects(as_list(self.where), component)

    def applied(self, component: Component, now: Moment) -> float:
        """Return the factor of a component, 1 if ``where`` excludes it; the fit applies the same rule."""
        if not self.acts_on(component):
            return 1.0
        # a factor sees only the components that it acts on, so that depths are ranked among these
        return self.checked(component, replace(now, components=tuple(filter(self.acts_on, now.components))))

    def checked(self, component: Component, now: Moment) -> float:
        """Return the factor without regard to ``where``; raise a ``ValueError`` if it is negative or not finite."""
        value = self.factor(component, now)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(
                f"{type(self).__name__} gave component {component.name!r} the factor {value!r} at {now.clock}; factors "
                "must be finite numbers >= 0"
            )
        return value
