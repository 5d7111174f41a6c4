"""Learning rates for networks that grow while they train, as PyTorch Lightning callbacks."""

from structurenet_pl.callbacks.age import AgeDecay
from structurenet_pl.callbacks.base import LRFactor
from structurenet_pl.callbacks.components import Components
from structurenet_pl.callbacks.density import DensityScaler
from structurenet_pl.callbacks.depth import DepthDecay
from structurenet_pl.callbacks.freeze import ProgressiveFreeze
from structurenet_pl.callbacks.lars import LARSScaler
from structurenet_pl.callbacks.monitor import StrataMonitor
from structurenet_pl.callbacks.patience import ResetPatience
from structurenet_pl.callbacks.plateau import GrowOnPlateau
from structurenet_pl.callbacks.responder import GrowthResponder
from structurenet_pl.callbacks.role import RoleLR
from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.callbacks.triggers import GrowEvery
from structurenet_pl.callbacks.warmup import Warmup
from structurenet_pl.events import Clock, Component, GrowthEvent
from structurenet_pl.growable import GrowableModule, GrowthMixin
from structurenet_pl.looking.pictures import plot_strata
from structurenet_pl.looking.previews import preview
from structurenet_pl.looking.report import GroupLR, explain
from structurenet_pl.looking.strata import Strata
from structurenet_pl.methods import growth
from structurenet_pl.moment import Moment, Norms
from structurenet_pl.net2net import identity_like, widen
from structurenet_pl.presets import recommended
from structurenet_pl.successors import came_from

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
    "Moment",
    "Norms",
    "ProgressiveFreeze",
    "ResetPatience",
    "RoleLR",
    "SedimentaryDecay",
    "Strata",
    "StrataMonitor",
    "Warmup",
    "came_from",
    "explain",
    "growth",
    "identity_like",
    "plot_strata",
    "preview",
    "recommended",
    "widen",
]
