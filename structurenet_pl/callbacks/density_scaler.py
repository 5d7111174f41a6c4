"""DensityScaler: scale the lr of a component by the density of its connections."""

from collections.abc import Sequence

from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import Component


class DensityScaler(LRFactor):
    r"""Scale the lr of very sparse components up, and the lr of dense components down.

    .. math:: f = \begin{cases} s & \rho < \rho_s \\ d & \rho > \rho_d \\ 1 & \text{otherwise} \end{cases}

    where :math:`\rho` is the density: the share of a component's connections that exist. The density comes from the
    first of these sources that a tensor has: the mask of ``torch.nn.utils.prune``, the method ``get_density()`` of a
    module in the component, the share of entries that are not zero. Only tensors with several dimensions hold
    connections; a component without such a tensor (a norm layer) has factor 1. Density is measured at the start of
    each epoch and after each growth event.

    Args:
        sparse_below: Density :math:`\rho_s` below which a component is sparse, in [0, 1].
        sparse: Factor :math:`s` of sparse components, >= 0.
        dense_above: Density :math:`\rho_d` above which a component is dense, in [0, 1].
        dense: Factor :math:`d` of dense components, >= 0.
        where: Roles or name patterns of the components that the factor acts on; None for all components.

    Raises:
        ValueError: If a density is outside [0, 1], ``sparse_below`` exceeds ``dense_above``, or a factor is negative.

    Example:
        >>> from structurenet_pl import Component, DensityScaler, Moment
        >>> for density in (0.01, 0.05, 0.5):
        ...     print(DensityScaler().factor(Component("layer"), Moment(density=lambda component: density)))
        2.0
        1.0
        0.5

    References:
        Seed document, strategy 11 (``structurenet_pl.strategies``).
    """

    basis = "density"
    unit = "epoch"  # a measurement of the density reads every weight, which would be too slow in each step

    def __init__(
        self,
        sparse_below: float = 0.02,
        sparse: float = 2.0,
        dense_above: float = 0.1,
        dense: float = 0.5,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if not 0 <= sparse_below <= dense_above <= 1:
            raise ValueError(f"need 0 <= sparse_below <= dense_above <= 1, got {sparse_below} and {dense_above}")
        check_at_least(0, {"sparse": sparse, "dense": dense})
        self.sparse_below = sparse_below
        self.sparse = sparse
        self.dense_above = dense_above
        self.dense = dense

    def factor(self, component: Component, now: Moment) -> float:
        """Return the factor for the component's density."""
        density = now.density(component)
        if density is None:  # the component has no connections
            return 1.0
        if density < self.sparse_below:
            return self.sparse
        return self.dense if density > self.dense_above else 1.0
