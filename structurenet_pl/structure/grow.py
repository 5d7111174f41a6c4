"""Carry out one growth: run the growth method, log what it changed, and undo it after an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from structurenet_pl.structure.affected_components import with_affected_components
from structurenet_pl.structure.cohorts import generations_after
from structurenet_pl.structure.diff import BeforeGrowth, compare
from structurenet_pl.structure.events import Clock, GrowthEvent
from structurenet_pl.structure.founding import Founding, founding_of, set_founding
from structurenet_pl.structure.growth_methods import GrowthRequest, SecondMoments
from structurenet_pl.structure.module_structure import (
    HasGrowthLog,
    all_patterns,
    cache_specs,
    cached_structure,
    clear_structure_cache,
    specs_of,
)
from structurenet_pl.structure.partition import Structure, apply_event, parameters_by_all_names
from structurenet_pl.structure.rollback import Snapshot
from structurenet_pl.structure.tensor_mapping import Copied, Successor, discard_notes, pop_copied, shape_of

Arguments = Mapping[str, Any]
Settle = Callable[[Arguments], None]  # is called with the arguments when a growth method has returned


class OtherArgumentsError(RuntimeError):
    """A growth method has chosen other arguments on this rank than all ranks are to use.

    Args:
        own: The arguments of this rank.
        arguments: Those of all ranks.
    """

    def __init__(self, own: Arguments, arguments: Arguments) -> None:
        super().__init__(f"the growth method has chosen {dict(own)}, expected {dict(arguments)} as on rank 0")
        self.arguments = arguments


@dataclass(frozen=True)
class Change:
    """What one growth changed in a module, for optimizer, learning rates and averaged copies.

    Args:
        event: The event.
        structure: The structure after it.
        successors: The successors of tensors that were replaced, reshaped or removed; None for a removed tensor.
        copied: How our helpers computed the values of new parameters and buffers from those of old ones.
        second_moments: The start value of second moments of new entries, in the optimizer.
        like: Name of the component whose param groups newborn parameters join, None for the nearest.
    """

    event: GrowthEvent
    structure: Structure
    successors: Mapping[nn.Parameter, Successor | None]
    copied: Mapping[Tensor, Copied]
    second_moments: SecondMoments
    like: str | None


@contextmanager
def one_growth(
    module: HasGrowthLog,
    request: GrowthRequest,
    clock: Clock,
    settle: Settle = lambda arguments: None,
) -> Iterator[tuple[Change, Any]]:
    """Carry out one growth and log it; undo it if the growth method or the body of the ``with`` raises.

    Gives the change and the result of the growth method. Values of existing tensors that the method changed in place
    are not restored.

    Args:
        module: The module.
        request: The call of the growth method.
        clock: The time of the growth.
        settle: Called with the arguments when the growth method has returned. It may replace new tensors by others of
            the same shape (by sharded ones), or raise ``OtherArgumentsError``: then the growth is undone and carried
            out again with the arguments of all ranks.
    """
    with restore_structure_on_error(module) as snapshot:
        try:
            change, result = grow_and_log(module, request, clock, settle)
        except OtherArgumentsError as other:
            snapshot.restore()
            change, result = grow_and_log(module, replace(request, arguments=other.arguments), clock, settle)
        yield change, result


@contextmanager
def restore_structure_on_error(module: HasGrowthLog) -> Iterator[Snapshot]:
    """Restore all references of a module if the body of the ``with`` raises; else update its founding."""
    snapshot = Snapshot(module)
    founding = founding_of(module) or Founding(module, snapshot)
    try:
        yield snapshot
    except BaseException:  # a KeyboardInterrupt, too, must not leave half a growth
        snapshot.restore()
        clear_structure_cache(module)
        raise
    founding.note(snapshot)
    set_founding(module, founding)


def grow_and_log(
    module: HasGrowthLog,
    request: GrowthRequest,
    clock: Clock,
    settle: Settle = lambda arguments: None,
) -> tuple[Change, Any]:
    """Carry out one growth and log it. Gives the change and the result of the growth method.

    An error leaves the module half grown: call it within ``restore_structure_on_error``.
    """
    specs = specs_of(module)
    # without patterns: they may be of another Trainer, and an event must be the same under any patterns
    structure = cached_structure(module, parameters_by_all_names(module), specs, {})
    if module._founders is None:
        module._founders = specs  # from here on, inference from the grown module would give other components
    module._is_growing = True
    before = BeforeGrowth(
        structure,
        specs,
        {name: shape_of(tensor) for tensors in structure.parameters.values() for name, tensor in tensors.items()},
        dict(module.named_modules()),
    )
    discard_notes(chain(structure.owner, module.buffers()))
    # a validation loop runs in inference mode, and parameters born in it could never be trained
    with torch.inference_mode(False), torch.enable_grad():
        result = request.method.function(module, **request.arguments)
        request = request.with_returned_arguments(result)
        settle(request.arguments)
        numbered = replace(clock, generation=len(module.growth_log) + 1)
        names = parameters_by_all_names(module)
        event, successors = compare(module, names, before, request, numbered)
    generations = generations_after(structure, successors, names, numbered.generation)
    log, module.growth_log, module._generations = module.growth_log, (*module.growth_log, event), generations
    specs = apply_event(specs, event)
    after = cached_structure(module, names, specs, all_patterns(module))
    event = with_affected_components(event, request, structure, after, successors)
    module.growth_log = (*log, event)
    module._is_growing = False  # an error leaves it True until the snapshot is restored
    cache_specs(module, specs)
    copied = pop_copied(chain(module.parameters(), module.buffers()))
    return Change(event, after, successors, copied, request.method.second_moments, request.method.like), result
