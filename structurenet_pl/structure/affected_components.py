"""Which components a growth affects besides the new ones: the resized components and the neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from structurenet_pl.structure.events import Component, GrowthEvent, as_list
from structurenet_pl.structure.growth_methods import GrowthRequest
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import NEW_ENTRY, Successor


def with_affected_components(
    event: GrowthEvent,
    request: GrowthRequest,
    before: Structure,
    after: Structure,
    successors: Mapping[nn.Parameter, Successor | None],
) -> GrowthEvent:
    """The event with the names of the widened, shrunk and adjacent components.

    Args:
        event: The event without them.
        request: The call of the growth method.
        before: The structure before the growth.
        after: The structure after it.
        successors: The successors of tensors that were replaced, reshaped or removed; None for a removed tensor.

    Raises:
        ValueError: If the call names neighbours that do not exist.
    """
    widened, shrunk = _resized(before, after, successors)
    event = replace(event, widened=widened, shrunk=shrunk)
    return replace(event, adjacent=_neighbours(request, event, after.by_depth))


def _resized(
    before: Structure, after: Structure, successors: Mapping[nn.Parameter, Successor | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The components that gained entries in an old tensor, and the components that lost entries or tensors."""
    widened, shrunk = set(), set()
    for old, successor in successors.items():
        if successor is None:
            shrunk.add(before.owner[old])
            continue
        kept = [len(positions) - positions.count(NEW_ENTRY) for positions in successor.origin]
        name = after.owner[successor.tensor]
        if any(entries < size for entries, size in zip(kept, successor.tensor.shape, strict=True)):
            widened.add(name)
        if any(entries < size for entries, size in zip(kept, successor.old_shape, strict=True)):
            shrunk.add(name)
    names = list(after.components)  # a component that is gone stands in event.removed, not here
    return tuple(filter(widened.__contains__, names)), tuple(filter(shrunk.__contains__, names))


def _neighbours(request: GrowthRequest, event: GrowthEvent, components: Sequence[Component]) -> tuple[str, ...]:
    """The old components next to the new and widened ones: those that the call names, else by depth.

    By depth, an old component is a neighbour if its depth differs from that of a new or widened one by at most 1.
    """
    generation = event.clock.generation
    new = {
        component.name
        for component in components
        if component.born.generation == generation or component.name in event.widened
    }
    old = [component for component in components if component.name not in new]
    if request.method.adjacent is None:
        depths = {component.depth for component in components if component.name in new}
        return tuple(component.name for component in old if any(abs(component.depth - depth) <= 1 for depth in depths))
    patterns = as_list(request.arguments[request.method.adjacent])
    if unmatched := [pattern for pattern in patterns if not any(component.matches(pattern) for component in old)]:
        raise ValueError(
            f"adjacent names {unmatched}, expected roles or names of the components "
            f"{[component.name for component in old]}"
        )
    return tuple(component.name for component in old if any(map(component.matches, patterns)))
