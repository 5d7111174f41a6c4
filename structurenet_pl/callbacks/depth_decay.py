"""DepthDecay: scale the lr of a component by its depth in the network."""

from collections.abc import Sequence
from typing import Literal

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import Component


class DepthDecay(LRFactor):
    r"""Scale the lr of a component by its depth: by default the lr falls towards the input.

    .. math:: f = \gamma^{(n - 1 - i) / n} \quad\text{(slowest input)}, \qquad f = \gamma^{i / n}
        \quad\text{(slowest output)}

    where :math:`i` is the index of the component's depth among the :math:`n` distinct depths of the components that
    the factor acts on. With several optimizers, as of a GAN, depths are counted for each of them. The formula in the
    seed is the second one, which gives the *highest* lr to the earliest layer. The purpose stated in the seed is to
    preserve early layers; the first formula does this, so it is the default.

    Args:
        gamma: Decay :math:`\gamma` over n depths, >= 0: the factors of neighbouring depths differ by its n-th root. For
            a decay q from each depth to the next (layer-wise lr decay) give q ** n.
        slowest: End of the network with the lowest lr: ``"input"`` or ``"output"``.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If ``gamma`` is negative, or ``slowest`` is neither ``"input"`` nor ``"output"``.

    Example:
        >>> from structurenet_pl import Component, DepthDecay, Moment
        >>> now = Moment(components=tuple(Component(f"layers.{depth}", depth=depth) for depth in range(2)))
        >>> [round(DepthDecay(0.01).factor(layer, now), 3) for layer in now.components]
        [0.1, 1.0]
        >>> [round(DepthDecay(0.01, slowest="output").factor(layer, now), 3) for layer in now.components]
        [1.0, 0.1]

    References:
        Seed document, strategy 1 (``structurenet_pl.strategies``).
        Howard and Ruder, [ULMFiT](https://arxiv.org/abs/1801.06146), 2018, section 3.2.
    """

    basis = "depth"
    unit = "generation"  # depths change at growth events only

    def __init__(
        self,
        gamma: float = 0.1,
        slowest: Literal["input", "output"] = "input",
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        check_at_least(0, {"gamma": gamma})
        self.gamma = gamma
        self.slowest = slowest

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's depth."""
        index, n = now.rank(component)
        distance = n - 1 - index if self.slowest == "input" else index
        return float(self.gamma) ** (distance / n)
