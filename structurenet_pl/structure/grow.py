"""Carry out one growth: run the growth method, log what it changed, and undo it after an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from structurenet_pl.structure.affected_components import with_affected_components
from structurenet_pl.structure.cohorts import births_after, generations_after
from structurenet_pl.structure.diff import compare
from structurenet_pl.structure.events import Clock, GrowthEvent
from structurenet_pl.structure.founding import Founding, founding_of, set_founding
from structurenet_pl.structure.growth_methods import GrowthRequest, SecondMoments
from structurenet_pl.structure.inventory import Inventory, NetworkState
from structurenet_pl.structure.module_structure import (
    HasGrowthLog,
    all_patterns,
    cache_specs,
    cached_structure,
    clear_structure_cache,
    replace_last_event,
    specs_of,
)
from structurenet_pl.structure.partition import Structure, apply_event
from structurenet_pl.structure.repeatable_sizes import DecisionWatch, warn_of_decision
from structurenet_pl.structure.rollback import Snapshot
from structurenet_pl.structure.tensor_mapping import Copied, Successor, discard_notes, pop_copied

Arguments = Mapping[str, Any]
AfterMethod = Callable[[Arguments], None]  # is called with the arguments when a growth method has returned


def do_nothing(arguments: Arguments) -> None:
    """For growth with nothing left to do when its method has returned."""


class CallAgainError(RuntimeError):
    """The growth method must be called again, with the arguments that all ranks are to use.

    Args:
        arguments: The arguments that the method has chosen on rank 0.
        others: Different ones, of another rank.
    """

    def __init__(self, arguments: Arguments, others: Arguments) -> None:
        super().__init__(
            f"ranks have chosen different arguments: {dict(arguments)} on rank 0, {dict(others)} on another one. A "
            "growth method must use an argument that it is given, and decide only those that are None."
        )
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
    module: HasGrowthLog, request: GrowthRequest, clock: Clock, after_method: AfterMethod = do_nothing
) -> Iterator[tuple[Change, Any]]:
    """Carry out one growth and log it; undo it if the growth method or the body of the ``with`` raises.

    Gives the change and the result of the growth method. Values of existing tensors that the method changed in place
    are not restored.

    Args:
        module: The module.
        request: The call of the growth method.
        clock: The time of the growth.
        after_method: Called with the arguments when the growth method has returned. It may replace new tensors by
            others of the same shape (by sharded ones), or raise ``CallAgainError``: then the growth is undone and
            carried out again with the arguments of all ranks.
    """
    with restore_structure_on_error(module) as snapshot:
        try:
            grown = grow_and_log(current_state(module), request, clock, after_method, watch := DecisionWatch())
        except CallAgainError as other:
            snapshot.restore()
            request = replace(request, arguments=other.arguments)
            grown = grow_and_log(current_state(module), request, clock, after_method, watch := DecisionWatch())
        change = grown.change
        replace_last_event(module, change.event)
        warn_of_decision(request.method.name, grown.result, watch)
        yield change, grown.result


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
    founding.note(module, snapshot)
    set_founding(module, founding)


@dataclass(frozen=True, eq=False)
class Grown:
    """What a growth method has done.

    Args:
        request: The call of the growth method, with the arguments that it has decided itself.
        event: The event, which is in the growth log, without the components that it affects besides new ones.
        before: The module before the growth.
        after: The module after the growth, which the next growth may begin with.
        successors: The successors of tensors that were replaced, reshaped or removed; None for a removed tensor.
        copied: How our helpers computed the values of new parameters and buffers from those of old ones.
        result: What the growth method has returned.
    """

    request: GrowthRequest
    event: GrowthEvent
    before: NetworkState
    after: NetworkState
    successors: Mapping[nn.Parameter, Successor | None]
    copied: Mapping[Tensor, Copied]
    result: Any

    @property
    def structure(self) -> Structure:
        """The structure after the growth, with patterns."""
        module = self.after.module
        return cached_structure(module, self.after.inventory.by_every_name, self.after.specs, all_patterns(module))

    @property
    def whole_event(self) -> GrowthEvent:
        """The event, with the components that it affects besides new ones, and numbers of parameters."""
        counts = self.before.inventory.parameter_count, self.after.inventory.parameter_count
        event = replace(self.event, parameters=counts)
        return with_affected_components(event, self.request, self.before.structure, self.structure, self.successors)

    @property
    def change(self) -> Change:
        """What the growth changed, with the whole event."""
        method = self.request.method
        return Change(
            self.whole_event, self.structure, self.successors, self.copied, method.second_moments, method.like
        )


def current_state(module: HasGrowthLog) -> NetworkState:
    """The module as it is now, before a growth.

    Raises:
        ValueError: If a parameter stands in no component.
    """
    state = NetworkState(module, Inventory(module), specs_of(module))
    _ = state.structure  # made here, because it refuses what was added outside a growth method
    return state


def grow_and_log(
    before: NetworkState,
    request: GrowthRequest,
    clock: Clock,
    after_method: AfterMethod,
    watch: AbstractContextManager[Any],
) -> Grown:
    """Run a growth method, find what it has changed, and log the event, without the components that it affects.

    An error leaves the module half grown: call it within ``restore_structure_on_error``.

    Args:
        before: The module before the growth.
        request: The call of the growth method.
        clock: The time of the growth.
        after_method: As in ``one_growth``.
        watch: The growth method runs inside it.
    """
    module, specs = before.module, before.specs
    if module._founders is None:
        module._founders = specs  # from here on, inference from the grown module would give other components
    module._is_growing = True
    discard_notes(chain(before.inventory.by_first_name.values(), module.buffers()))
    # a validation loop runs in inference mode, and parameters born in it could never be trained
    with torch.inference_mode(False), torch.enable_grad():
        with watch:
            result = request.method.function(module, **request.arguments)
        request = request.with_returned_arguments(result)
        after_method(request.arguments)
        numbered = replace(clock, generation=len(module.growth_log) + 1)
        after = Inventory(module)
        event, successors = compare(before, after, request, numbered)
    if successors or event.moved:  # else all old tensors are what they were, under the same names
        module._generations = generations_after(before.structure, successors, after.name_of, numbered.generation)
        births = births_after(module._generations, before.structure, successors, after.name_of)
        event = replace(event, births=births)
    module.growth_log = (*module.growth_log, event)
    specs = apply_event(specs, event)
    cache_specs(module, specs)
    module._is_growing = False  # an error leaves it True until the snapshot is restored
    copied = pop_copied(chain(after.by_first_name.values(), module.buffers()))
    return Grown(request, event, before, NetworkState(module, after, specs), successors, copied, result)
