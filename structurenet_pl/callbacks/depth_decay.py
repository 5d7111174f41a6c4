"""DepthDecay: scale the lr of a component by its depth in the network."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import Component, as_list


class DepthDecay(LRFactor):
    r"""Scale the lr of a component by its depth: by default the lr falls towards the input.

    .. math:: f = \gamma^{(n - 1 - i) / n} \quad\text{(slowest input)}, \qquad f = \gamma^{i / n}
        \quad\text{(slowest output)}

    where :math:`i` is the index of the component's depth among the :math:`n` distinct depths of the components that
    the factor acts on. With several optimizers, as of a GAN, depths are counted for each of them. The formula in the
    seed is the second one, which gives the *highest* lr to the earliest layer. The purpose stated in the seed is to
    preserve early layers; the first formula does this, so it is the default.

    In these formulas :math:`\gamma` is the spread over the whole network. Other libraries give the decay from one layer
    to the next. With ``layers``, :math:`\gamma` is that:

    .. math:: f = \gamma^{m}

    where :math:`m` is the number of layers between the component and the fast end of the network: those behind it
    (slowest input), or those in front of it (slowest output). A component that is no layer itself, such as an
    embedding, counts like any other. Where there is no layer, or none yet, the factor is 1.

    Args:
        gamma: Spread :math:`\gamma` over the whole network, or from one layer to the next if ``layers`` is given; >= 0.
        slowest: End of the network with the lowest lr: ``"input"`` or ``"output"``.
        where: Roles or name patterns of the components that the factor acts on; None for all components.
        layers: Roles or name patterns of the components that count as layers, as in ``"blocks.*"``; ``"*"`` if each
            component is one. Components at the same depth are one layer. None for a spread over the whole network.

    Raises:
        ValueError: If ``gamma`` is negative, ``slowest`` is neither ``"input"`` nor ``"output"``, or ``layers`` is
            empty.

    Example:
        >>> from structurenet_pl import Component, DepthDecay, Moment
        >>> now = Moment(components=tuple(Component(f"layers.{depth}", depth=depth) for depth in range(2)))
        >>> [round(DepthDecay(0.01).factor(layer, now), 3) for layer in now.components]
        [0.1, 1.0]
        >>> [round(DepthDecay(0.01, slowest="output").factor(layer, now), 3) for layer in now.components]
        [1.0, 0.1]
        >>> [DepthDecay(0.5, layers="layers.*").factor(layer, now) for layer in now.components]
        [0.5, 1.0]

    References:
        Seed document, strategy 1 (``structurenet_pl.strategies``). Howard and Ruder,
        [ULMFiT](https://arxiv.org/abs/1801.06146), 2018, section 3.2. From layer to layer: Bao et al.,
        [BEiT](https://arxiv.org/abs/2106.08254), 2021; timm's layer decay and others in ``structurenet_pl.recipes``.
    """

    basis = "depth"
    unit = "generation"  # depths change at growth events only

    def __init__(
        self,
        gamma: float = 0.1,
        slowest: Literal["input", "output"] = "input",
        where: str | Sequence[str] | None = None,
        layers: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        check_at_least(0, {"gamma": gamma})
        if layers is not None and not layers:
            raise ValueError(f"layers must name roles or patterns, or be None for a spread over all; got {layers!r}")
        self.gamma = gamma
        self.slowest = slowest
        self.layers = layers
        self.looks_for = as_list(layers)

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's depth."""
        if self.layers is None:
            index, n = now.rank(component)
            distance = n - 1 - index if self.slowest == "input" else index
            return float(self.gamma) ** (distance / n)
        depths = now.once(self, self._layer_depths)
        behind, in_front = len(depths) - bisect_right(depths, component.depth), bisect_left(depths, component.depth)
        return float(self.gamma) ** (behind if self.slowest == "input" else in_front)

    def _layer_depths(self, now: Moment) -> list[int]:
        """The depths of the layers, from the input on."""
        patterns = as_list(self.layers)
        return sorted({component.depth for component in now.components if any(map(component.matches, patterns))})
