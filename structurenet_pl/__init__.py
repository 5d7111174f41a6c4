"""PyTorch Lightning callbacks that set the learning rates of networks that grow while they train.

- Factors of the learning rate: :class:`Warmup`, :class:`AgeDecay`, :class:`SedimentaryDecay`, :class:`DepthDecay`,
  :class:`RoleLR`, :class:`GrowthResponder`, :class:`ProgressiveFreeze`, :class:`LARSScaler`, :class:`DensityScaler`;
  :func:`recommended` returns a list of them, and :class:`LRFactor` is the base class for your own.
- Growth: :class:`GrowableModule` or :class:`GrowthMixin`, :func:`growth`, :func:`widen`, :func:`identity_like`,
  :func:`came_from`; :class:`GrowEvery` and :class:`GrowOnPlateau` call growth methods, :class:`ResetPatience` resets
  early stopping after growth, and :class:`Components` gives roles to components.
- Logs and tables: :class:`StrataMonitor`, :func:`explain`, :func:`plot_strata`, :func:`plot_growth`, :func:`preview`.
"""

from structurenet_pl.callbacks.age_decay import AgeDecay
from structurenet_pl.callbacks.components import Components
from structurenet_pl.callbacks.density_scaler import DensityScaler
from structurenet_pl.callbacks.depth_decay import DepthDecay
from structurenet_pl.callbacks.grow_every import GrowEvery
from structurenet_pl.callbacks.grow_on_plateau import GrowOnPlateau
from structurenet_pl.callbacks.growth_responder import GrowthResponder
from structurenet_pl.callbacks.lars_scaler import LARSScaler
from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.callbacks.presets import recommended
from structurenet_pl.callbacks.progressive_freeze import ProgressiveFreeze
from structurenet_pl.callbacks.reset_patience import ResetPatience
from structurenet_pl.callbacks.role_lr import RoleLR
from structurenet_pl.callbacks.sedimentary_decay import SedimentaryDecay
from structurenet_pl.callbacks.strata_monitor import StrataMonitor
from structurenet_pl.callbacks.warmup import Warmup
from structurenet_pl.engine.growable_module import GrowableModule, GrowthMixin
from structurenet_pl.learning_rates.moment import Moment, Norms
from structurenet_pl.monitoring.group_lrs import GroupLR
from structurenet_pl.monitoring.growth_plot import plot_growth
from structurenet_pl.monitoring.lr_history import LRHistory
from structurenet_pl.monitoring.metric_history import MetricHistory
from structurenet_pl.monitoring.pictures import plot_strata
from structurenet_pl.monitoring.previews import preview
from structurenet_pl.monitoring.report import explain
from structurenet_pl.structure.events import Clock, Component, GrowthEvent
from structurenet_pl.structure.growth_methods import growth
from structurenet_pl.structure.net2net import identity_like, widen
from structurenet_pl.structure.tensor_mapping import came_from

__all__ = [
    "AgeDecay",
    "Clock",
    "Component",
    "Components",
    "DensityScaler",
    "DepthDecay",
    "GroupLR",
    "GrowEvery",
    "GrowOnPlateau",
    "GrowableModule",
    "GrowthEvent",
    "GrowthMixin",
    "GrowthResponder",
    "LARSScaler",
    "LRFactor",
    "LRHistory",
    "MetricHistory",
    "Moment",
    "Norms",
    "ProgressiveFreeze",
    "ResetPatience",
    "RoleLR",
    "SedimentaryDecay",
    "StrataMonitor",
    "Warmup",
    "came_from",
    "explain",
    "growth",
    "identity_like",
    "plot_growth",
    "plot_strata",
    "preview",
    "recommended",
    "widen",
]
