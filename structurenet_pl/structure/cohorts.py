"""Cohorts: the entries of a component's tensors that were born in the same growth event."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, product
from math import prod

import torch
from torch import Tensor, nn

from structurenet_pl.structure.events import Component, GrowthEvent
from structurenet_pl.structure.partition import Generations, Structure
from structurenet_pl.structure.tensor_mapping import Successor, shape_of

Block = tuple[slice, ...]


def generations_after(
    before: Structure,
    successors: Mapping[nn.Parameter, Successor | None],
    name_of: Callable[[nn.Parameter], str],
    generation: int,
) -> dict[str, Generations]:
    """The generations of the indices of tensors after a growth, by name of the tensor.

    A tensor whose entries were all born with its component is left out, so the result does not grow with the number of
    events.

    Args:
        before: The structure before the growth.
        successors: The successors of tensors that were replaced, reshaped or removed; None for a removed tensor.
        name_of: Gives the first name of a parameter after the growth.
        generation: The number of the growth event.
    """
    old = before.generations
    after = {name_of(tensor): generations for tensor, generations in old.items() if tensor not in successors}
    for tensor, successor in successors.items():
        if successor is None:
            continue
        birth = before.components[before.owner[tensor]].born.generation
        sources = old.get(tensor) or tuple((birth,) * size for size in successor.old_shape)
        generations = tuple(
            # the place of a new entry is NEW_ENTRY, -1, which selects the last element: the generation of this growth
            tuple(map((*source, generation).__getitem__, places))
            for places, source in zip(successor.origin, sources, strict=True)
        )
        if any(set(indices) - {birth} for indices in generations):
            after[name_of(successor.tensor)] = generations
    return after


def births_after(
    known: Mapping[str, Generations],
    before: Structure,
    successors: Mapping[nn.Parameter, Successor | None],
    name_of: Callable[[nn.Parameter], str],
) -> dict[str, list[list[list[int]]]]:
    """The generations of the indices of tensors that a growth has changed, as runs, for the growth log.

    Args:
        known: The generations after the growth, from ``generations_after``.
        before: The structure before the growth.
        successors: The successors of tensors that were replaced, reshaped or removed; None for a removed tensor.
        name_of: Gives the first name of a parameter after the growth.
    """
    births = {}
    for tensor, successor in successors.items():
        if successor is not None:
            name, birth = name_of(successor.tensor), before.components[before.owner[tensor]].born.generation
            generations = known.get(name) or tuple((birth,) * len(places) for places in successor.origin)
            births[name] = [[[number, len(list(run))] for number, run in groupby(along)] for along in generations]
    return births


def generations_of_births(event: GrowthEvent, shapes: Mapping[str, Sequence[int] | None]) -> dict[str, Generations]:
    """The generations of the indices of tensors that a growth has changed, as its event in a log gives them.

    Args:
        event: The event.
        shapes: The shapes of the tensors after it.

    Raises:
        ValueError: If the runs do not fit the tensors.

    Example:
        >>> from structurenet_pl import Clock
        >>> event = GrowthEvent("prune", {}, Clock(generation=1), births={"weight": [[(0, 2), (1, 1)], [(0, 3)]]})
        >>> generations_of_births(event, {"weight": (3, 3)})
        {'weight': ((0, 0, 1), (0, 0, 0))}
    """
    for name, dimensions in event.births.items():
        # before tuples of these lengths are made: a file may say anything
        lengths = [length for runs in dimensions for _, length in runs]
        sizes = [sum(length for _, length in runs) for runs in dimensions]
        numbers = [number for runs in dimensions for number, _ in runs]
        known = all(0 <= number <= event.clock.generation for number in numbers)
        if sizes != list(shapes.get(name) or ()) or min(lengths, default=1) < 1 or not known:
            raise ValueError(f"the births of {name!r} are {dimensions}, expected runs for shape {shapes.get(name)}")
    return {
        name: tuple(tuple(number for number, length in runs for _ in range(length)) for runs in dimensions)
        for name, dimensions in event.births.items()
    }


def with_cohorts(structure: Structure, known: Mapping[str, Generations], log: Iterable[GrowthEvent]) -> Structure:
    """The structure with the cohorts of its components.

    A cohort is the component with the clock of the event in which its entries were born, and with the role that the
    event gives, if it gives one.

    Args:
        structure: The structure.
        known: The generations of the indices of tensors, by name.
        log: The growth log.
    """
    generations = _by_tensor(known, structure)
    events = {event.clock.generation: event for event in log}
    cohorts = {}
    for name in {structure.owner[tensor]: None for tensor in generations}:
        component = structure.components[name]
        birth = component.born.generation
        born = {
            generation
            for tensor in structure.parameters[name].values()
            for generation in (entry_generations(generations[tensor]) if tensor in generations else {birth})
        }
        cohorts[name] = cohorts_of(component, born, events)
    return replace(structure, generations=generations, cohorts=cohorts)


def cohorts_of(
    component: Component, generations: Iterable[int], events: Mapping[int, GrowthEvent]
) -> tuple[Component, ...]:
    """The cohorts of a component, the oldest first.

    Args:
        component: The component.
        generations: The generations of its entries.
        events: The growth events by number.
    """
    return tuple(
        component
        if generation == component.born.generation
        else replace(component, born=events[generation].clock, role=events[generation].role or component.role)
        for generation in sorted(generations)
    )


def _by_tensor(known: Mapping[str, Generations], structure: Structure) -> dict[nn.Parameter, Generations]:
    """The generations by tensor, without tensors that were replaced by others outside a growth."""
    result = {}
    for name, generations in known.items():
        tensor = structure.names.get(name)
        if tensor is None or tuple(map(len, generations)) != shape_of(tensor):
            continue
        birth = structure.components[structure.owner[tensor]].born.generation
        # no entry is older than its component: a shared tensor may have come to a younger one
        clamped = tuple(
            indices if min(indices, default=birth) >= birth else tuple(max(birth, index) for index in indices)
            for indices in generations
        )
        if any(set(indices) - {birth} for indices in clamped):
            result[tensor] = clamped
    return result


def entry_generations(generations: Generations) -> set[int]:
    """The generations of the entries of a tensor. An entry is as old as its youngest index.

    Args:
        generations: For each dimension, the generation of each index.

    Example:
        >>> entry_generations(((0, 0, 2), (1, 1)))
        {1, 2}
    """
    oldest = max((min(indices, default=0) for indices in generations), default=0)
    return {generation for generation in set().union(*generations) if generation >= oldest}


def entry_counts(generations: Generations) -> dict[int, int]:
    """The number of entries of a tensor by generation.

    Args:
        generations: For each dimension, the generation of each index.

    Example:
        >>> entry_counts(((0, 0, 2), (0, 1)))
        {0: 2, 1: 2, 2: 2}
    """
    counts, before = {}, 0
    for generation in sorted(entry_generations(generations)):
        born_by_then = prod(sum(index <= generation for index in indices) for indices in generations)
        counts[generation], before = born_by_then - before, born_by_then
    return counts


def blocks(generations: Generations) -> list[tuple[Block, int]]:
    """The blocks of a tensor whose entries were born in one event, and the generation of each.

    Args:
        generations: For each dimension, the generation of each index.

    Example:
        >>> [generation for _, generation in blocks(((0, 0, 2), (0, 1)))]
        [0, 1, 2, 2]
    """
    runs = []
    for indices in generations:
        end, runs_of_dim = 0, []
        for generation, run in groupby(indices):
            start, end = end, end + len(list(run))
            runs_of_dim.append((slice(start, end), generation))
        runs.append(runs_of_dim)
    return [
        (tuple(part for part, _ in combination), max(generation for _, generation in combination))
        for combination in product(*runs)
    ]


def block_count(generations: Generations) -> int:
    """The number of blocks of a tensor.

    Args:
        generations: For each dimension, the generation of each index.

    Example:
        >>> block_count(((0, 0, 2), (0, 1)))
        4
    """
    return prod(sum(1 for _ in groupby(indices)) for indices in generations)


def generation_of_entries(tensor: Tensor, generations: Generations) -> Tensor:
    """The generation of each entry of a tensor; broadcasts to its shape."""
    born_in = torch.zeros((), dtype=torch.long, device=tensor.device)
    for dim, indices in enumerate(generations):
        of_dim = torch.tensor(indices, device=tensor.device)
        born_in = torch.maximum(born_in, of_dim.view([-1 if dim == at else 1 for at in range(tensor.ndim)]))
    return born_in
