"""What growth has made of a module, for all who follow it."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from torch import Tensor, nn

from structurenet_pl.components import Structure
from structurenet_pl.events import GrowthEvent
from structurenet_pl.successors import Copied, Successor, shape_of
from structurenet_pl.surgery.optimizer_state import Moments


@dataclass(frozen=True)
class Change:
    """What growth has made of a module.

    Args:
        event: The event.
        structure: The structure after it.
        successors: What has become of tensors that were replaced, reshaped or removed; None for gone.
        copied: How our helpers have made the values of new parameters and buffers from those of old ones.
        moments: What the second moments of new entries start as, in the optimizer.
        like: Name of the component whose param groups newborn parameters join, None for the nearest.
        numbers: What the growth method has read out of tensors, without a word in the log.
    """

    event: GrowthEvent
    structure: Structure
    successors: Mapping[nn.Parameter, Successor | None]
    copied: Mapping[Tensor, Copied]
    moments: Moments
    like: str | None
    numbers: Set[float]

    @property
    def sizes_by_data(self) -> list[int]:
        """The sizes in what was made that seem to follow from the values of tensors; 0 and 1 are no evidence."""
        components = self.structure.components.values()
        born = [one.name for one in components if one.born.generation == self.event.clock.generation]
        made = [tensor for name in born for tensor in self.structure.parameters[name].values()]
        made += [one.tensor for one in self.successors.values() if one is not None and one.reshaped]
        return sorted({size for tensor in made for size in shape_of(tensor) or () if size > 1} & self.numbers)
