r"""PyTorch Lightning callbacks that set the learning rates of networks that grow while they train.

Each callback is one *factor*. The learning rate of a component is the base lr, which your optimizer and LR scheduler
give, times the product of the factors:

.. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

- Factors of the learning rate: ``Warmup``, ``AgeDecay``, ``SedimentaryDecay``, ``DepthDecay``, ``RoleLR``,
  ``GrowthResponder``, ``ProgressiveFreeze``, ``LARSScaler``, ``DensityScaler``; ``recommended`` returns a list of them,
  and ``LRFactor`` is the base class for your own.
- Growth: ``GrowableModule`` or ``GrowthMixin``, ``growth``, ``widen``, ``identity_like``, ``came_from``; ``GrowEvery``
  and ``GrowOnPlateau`` call growth methods, ``ResetPatience`` resets early stopping after growth, and ``Components``
  gives roles to components.
- Logs and tables: ``StrataMonitor``, ``explain``, ``plot_strata``, ``plot_growth``, ``preview``.

The guides are the docstrings of the folders:

- ``structurenet_pl.structure``: what a growth method may do, cohorts, the growth log
- ``structurenet_pl.callbacks``: units of time, ``where=``, your own factor
- ``structurenet_pl.monitoring``: loggers, pictures, TensorBoard, preview
- ``structurenet_pl.freezing``: what a factor of 0 does, and what it saves
- ``structurenet_pl.learning_rates``: base lrs, lrs written by hand, rates within one tensor
- ``structurenet_pl.optim``: param groups, which optimizers work, optimizer state
- ``structurenet_pl.distributed``: several processes
- ``structurenet_pl.engine``: what is not supported yet, with ways out
- ``structurenet_pl.recipes``: methods that you know from elsewhere, such as layer decay and LoRA+
- ``structurenet_pl.strategies``: the document that this package grew from, quoted strategy by strategy

Where both Lightning packages are installed, ``structurenet_pl.pytorch_lightning`` has the ``GrowableModule`` for
``pytorch_lightning``.
"""

from importlib.metadata import version

from structurenet_pl.callbacks.age_decay import AgeDecay
from structurenet_pl.callbacks.components import Components
from structurenet_pl.callbacks.density_scaler import DensityScaler
from structurenet_pl.callbacks.depth_decay import DepthDecay
from structurenet_pl.callbacks.grow_every import GrowEvery
from structurenet_pl.callbacks.grow_on_plateau import GrowOnPlateau
from structurenet_pl.callbacks.growth_responder import GrowthResponder
from structurenet_pl.callbacks.lars_scaler import LARSScaler
from structurenet_pl.callbacks.lr_factor import LRFactor
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
from structurenet_pl.recipes import recommended
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

__version__ = version("structurenet-pl")
