"""Growth logs in checkpoints: compare them with the module, repeat their events, and undo later growth."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

from structurenet_pl.structure.cohorts import generations_of_births
from structurenet_pl.structure.events import GrowthEvent
from structurenet_pl.structure.founding import founding_of, holds, set_founding
from structurenet_pl.structure.grow import (
    AfterMethod,
    current_state,
    do_nothing,
    grow_and_log,
    restore_structure_on_error,
)
from structurenet_pl.structure.growth_handler import growth_handler_of
from structurenet_pl.structure.growth_methods import GrowthRequest, request_by_name
from structurenet_pl.structure.inventory import NetworkState
from structurenet_pl.structure.log_tensors import LOG_KEY
from structurenet_pl.structure.module_structure import (
    HasGrowthLog,
    clear_structure_cache,
    replace_last_event,
    structure_of,
)
from structurenet_pl.structure.random_states import kept_rng
from structurenet_pl.structure.tensor_mapping import shape_of

WITH_THIS_CODE = (
    "Loading a checkpoint calls its growth methods again: if these have changed, use the code that wrote it. If a size "
    "depends on data or chance, the method must return it, as in return {'width': width}."
)


class ReplayError(RuntimeError):
    """The growth log of a checkpoint does not fit the module or its code."""


def replay(
    module: HasGrowthLog,
    log: tuple[GrowthEvent, ...],
    make_after_method: Callable[[], AfterMethod] = lambda: do_nothing,
) -> None:
    """Grow until the growth log equals the given one; random number generators keep their states.

    A module that has grown further than the log first returns to its founding structure. The logs need not have equal
    dates; the module gets those of the given log.

    Args:
        module: The module.
        log: The growth log that it is to have.
        make_after_method: Is called before each event, and gives the ``after_method`` of ``one_growth`` for it.

    Raises:
        ReplayError: If the module has grown in another way, or its code gives another result than the log says.
    """
    _check_same_events(module.growth_log, log)
    if len(module.growth_log) > len(log):
        _return_to_founding(module, log)
    module.growth_log = log[: len(module.growth_log)]
    missing = log[len(module.growth_log) :]
    if not missing:
        return
    handler = growth_handler_of(module)
    if handler is not None and handler.tables:
        raise ReplayError(
            f"the checkpoint has grown further than the module, by {len(missing)} event(s) from {missing[0].called} "
            "on, and no optimizer would train the new parameters in the middle of a fit: load the checkpoint before "
            "the fit starts, or by fit(ckpt_path=...)."
        )
    with kept_rng(), restore_structure_on_error(module):
        before = None
        for event in missing:
            before = _repeat(module, event, before, make_after_method())
        structure_of(module)  # which the events have not needed; it refuses wrong patterns


@contextmanager
def replay_mentioned(module: HasGrowthLog, state_dict: Mapping[str, Any]) -> Iterator[None]:
    """Name the replay as a possible cause, if torch finds that tensors do not fit the module.

    Raises:
        ReplayError: In place of torch's ``RuntimeError``, if the state dict holds a growth log.
    """
    replays = LOG_KEY in state_dict  # loading removes it
    try:
        yield
    except ReplayError:
        raise
    except RuntimeError as error:
        if not replays:
            raise
        called = ", ".join(dict.fromkeys(event.method for event in module.growth_log))
        raise ReplayError(
            f"{error}\nThe module was grown as in the checkpoint, by {called}. {WITH_THIS_CODE}"
        ) from error


def predates_growth(module: HasGrowthLog, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict was saved before a module grew, and is more than a part of a later state dict."""
    founding = founding_of(module)
    if founding is None or LOG_KEY in state_dict or not founding.is_whole(state_dict):
        return False
    now = {name: shape_of(tensor) for name, tensor in module.named_parameters()}
    # averages of weights may hold all parameters of the grown module, but no log
    return not (founding.names <= now.keys() and holds(state_dict, now))


def _check_same_events(own_log: tuple[GrowthEvent, ...], log: tuple[GrowthEvent, ...]) -> None:
    """Check that two logs begin with the same events, whenever these happened.

    Raises:
        ReplayError: If an event differs.
    """
    for own, saved in zip(own_log, log, strict=False):
        if own != replace(saved, clock=own.clock):
            ours, theirs = _facts(own), _facts(saved)
            differences = [name for name in ours if ours[name] != theirs[name]]
            raise ReplayError(
                f"the module has grown in another way than the checkpoint: the checkpoint's event "
                f"{own.clock.generation} is {saved.called}, the module's is {own.called}; they differ in "
                f"{', '.join(differences)}: {_chosen(theirs, differences)} in the checkpoint, "
                f"{_chosen(ours, differences)} in the module. Load the checkpoint into a module that has not grown."
            )
        if own.births and saved.births and own.births != saved.births:  # a log from before births has none
            raise ReplayError(
                f"event {own.clock.generation}, {own.called}, has kept other entries in the module than in the "
                "checkpoint. Load the checkpoint into a module that has not grown."
            )


def _return_to_founding(module: HasGrowthLog, log: tuple[GrowthEvent, ...]) -> None:
    """Restore the founding structure of a module that has grown further than a log.

    Raises:
        ReplayError: If the module is in a fit, or is a copy of a grown module.
    """
    founding = founding_of(module)
    if growth_handler_of(module) is not None or founding is None:
        raise ReplayError(
            f"the module has grown further than the checkpoint, which ends before event {len(log) + 1}, "
            f"{module.growth_log[len(log)].called}, and growth cannot be undone in a fit, or in a copy of the module "
            "that grew, as callbacks for weight averaging keep one. Load the checkpoint into a module that has not "
            "grown, with a new Trainer."
        )
    founding.restore(module)
    set_founding(module, None)
    clear_structure_cache(module)


def _repeat(
    module: HasGrowthLog, event: GrowthEvent, before: NetworkState | None, after_method: AfterMethod
) -> NetworkState:
    """Repeat one event of a checkpoint.

    The structure of the whole network is not computed for an event that does not need it: a log would take quadratic
    time.

    Args:
        module: The module.
        event: The event.
        before: The module before the event, None for the first one.
        after_method: As in ``one_growth``.

    Returns:
        The module after the event.

    Raises:
        ReplayError: If the event cannot be repeated, or gives another result.
    """
    of_checkpoint = f"event {event.clock.generation} of the checkpoint, {event.called},"
    request = _request_again(module, event)
    try:
        # what the method decides was watched when it was called for the first time
        grown = grow_and_log(before or current_state(module), request, event.clock, after_method, nullcontext())
        # with other weights than at the growth, the method may have kept other entries
        births = generations_of_births(event, grown.after.inventory.shapes)
        module._generations = {**module._generations, **births}
        # other events affect only neighbours, which are taken from the checkpoint
        is_whole = not grown.successors and request.method.adjacent is None
        now = _outcome(grown.event if is_whole else grown.whole_event)
    except ReplayError:  # the limit of tensor sizes
        raise
    except Exception as error:
        raise ReplayError(f"{of_checkpoint} raised {type(error).__name__}: {error}\n{WITH_THIS_CODE}") from error
    saved = _outcome(event)
    if differences := [name for name in saved if saved[name] != now[name]]:
        raise ReplayError(
            f"{of_checkpoint} has another outcome with this code; they differ in {', '.join(differences)}: "
            f"{_chosen(saved, differences)} in the checkpoint, "
            f"{_chosen(now, differences)} with this code. {WITH_THIS_CODE}"
        )
    others = [name for name in event.adjacent if name not in grown.after.specs]
    if unknown := [name for name in others if not grown.structure.overlaps_component(name)]:
        raise ReplayError(
            f"{of_checkpoint} names the neighbours {unknown}, expected some of the components "
            f"{list(grown.structure.components)} or parts of them. Load the checkpoint with the code that wrote it."
        )
    # neighbours depend on patterns, and dates on the clock of the run: those of the checkpoint count
    replace_last_event(module, event)
    return grown.after


def _request_again(module: HasGrowthLog, event: GrowthEvent) -> GrowthRequest:
    """The request that repeats an event.

    Raises:
        ReplayError: If the growth method does not exist, or has other arguments.
    """
    try:
        return request_by_name(module, event.method, event.arguments)
    except (AttributeError, TypeError) as error:
        raise ReplayError(
            f"event {event.clock.generation} of the checkpoint, {event.called}, cannot be repeated: {error}\nIf the "
            f"method was renamed, keep its old name, too (old_name = new_name in the class). {WITH_THIS_CODE}"
        ) from error


def _outcome(event: GrowthEvent) -> dict[str, Any]:
    """The outcome of a growth, without anything that depends on patterns, which may be of another Trainer."""
    return {
        "generation": event.clock.generation,
        "born": event.born,
        "removed": event.removed,
        "widened": bool(event.widened),  # patterns split components, and so change these names
        "shrunk": bool(event.shrunk),
        "moved": event.moved,
        "role": event.role,
        "depth": event.depth,
        "beside": event.beside,
    }


def _facts(event: GrowthEvent) -> dict[str, Any]:
    """The fields of an event that are compared, except its date."""
    names = [field.name for field in fields(event) if field.compare and field.name != "clock"]
    return {name: getattr(event, name) for name in names}


def _chosen(facts: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: facts[name] for name in names}
