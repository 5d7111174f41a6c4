"""What growth has made of a module, for all who follow it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from structurenet_pl.structure.events import GrowthEvent
from structurenet_pl.structure.growth_methods import SecondMoments
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import Copied, Successor


@dataclass(frozen=True)
class Change:
    """What growth has made of a module.

    Args:
        event: The event.
        structure: The structure after it.
        successors: What has become of tensors that were replaced, reshaped or removed; None for gone.
        copied: How our helpers have made the values of new parameters and buffers from those of old ones.
        second_moments: What the second moments of new entries start as, in the optimizer.
        like: Name of the component whose param groups newborn parameters join, None for the nearest.
    """

    event: GrowthEvent
    structure: Structure
    successors: Mapping[nn.Parameter, Successor | None]
    copied: Mapping[Tensor, Copied]
    second_moments: SecondMoments
    like: str | None
