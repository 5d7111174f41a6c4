"""Steps in proportion to the weights."""

import math
from collections.abc import Sequence
from typing import Literal

from structurenet_pl.callbacks.base import LRFactor
from structurenet_pl.events import Component, Moment


class LARSScaler(LRFactor):
    r"""Scale the learning rate of a component by the ratio of its weight norm to its gradient norm.

    .. math:: f = \frac{\tau \lVert w \rVert}{\lVert g \rVert + \lambda \lVert w \rVert + \varepsilon}

    over all tensors of the component that have a gradient, 1 where a norm is 0 or not finite. :math:`\lambda` is the
    weight decay that the optimizer adds to the gradient, 0 where it acts apart from it (AdamW). Gradients are read
    after backward and before clipping; all norms cost one synchronisation with the device in a step.

    Args:
        trust_coefficient: :math:`\tau`, > 0. With 1.0 it is the seed's formula.
        eps: :math:`\varepsilon`, >= 0.
        mode: ``"lr"``: the learning rate is scaled, which works with any optimizer.
        clip: Upper bound of the factor, > 0; None for no bound.
        skip_1d: Whether tensors of one dimension (biases, norms) stand outside the norms and keep factor 1.
        where: Roles or name patterns of the components that it acts on; None for all.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from structurenet_pl import Component, LARSScaler, Moment, Norms
        >>> now = Moment(norms=lambda component, skip_1d: Norms(weight=2.0, grad=4.0, decay=0.0))
        >>> LARSScaler(trust_coefficient=0.01, eps=0.0).factor(Component("stem"), now)
        0.005

    References:
        Seed document, strategy 8. You et al., `Large Batch Training of Convolutional Networks
        <https://arxiv.org/abs/1708.03888>`_, 2017, equation 6.
    """

    needs_gradients = True

    def __init__(
        self,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        mode: Literal["lr"] = "lr",
        clip: float | None = None,
        skip_1d: bool = True,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if trust_coefficient <= 0:
            raise ValueError(f"trust_coefficient must be > 0, got {trust_coefficient}")
        if eps < 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        if mode != "lr":
            raise ValueError(f"mode must be 'lr', got {mode!r}; scaling gradients is not supported yet")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be > 0, or None for no bound; got {clip}")
        self.trust_coefficient = trust_coefficient
        self.eps = eps
        self.clip = clip
        self.skip_1d = skip_1d

    def factor(self, component: Component, now: Moment) -> float:
        """The trust ratio of the component."""
        weight, grad, decay = now.norms(component, self.skip_1d)
        if not (0 < weight < math.inf and 0 < grad < math.inf):
            return 1.0
        ratio = self.trust_coefficient * weight / (grad + decay + self.eps)
        return ratio if self.clip is None else min(ratio, self.clip)
