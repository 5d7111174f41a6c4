"""What a checkpoint holds of a fit beside Lightning's own state, and which checkpoints cannot be resumed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from structurenet_pl.distributed.communication import gather_from_all_ranks
from structurenet_pl.distributed.sharded_checkpoints import numbered_as_by_torch
from structurenet_pl.distributed.sharding import holds_shards
from structurenet_pl.learning_rates.lr_tables import CHECKPOINT_KEY, LRTables
from structurenet_pl.lightning import MisconfigurationException, rank_zero_warn
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.growth_methods import BY_USER, GrowthRequest, request_by_name
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.random_states import collect_rng, restore_rng


def save_fit(
    checkpoint: dict[str, Any],
    module: nn.Module,
    tables: LRTables,
    structure: Structure,
    waiting: Iterable[GrowthRequest],
) -> None:
    """Save the layout of the param groups and, for a growable module, random numbers and waiting growth of each rank.

    Args:
        checkpoint: The checkpoint that Lightning is about to write.
        module: The module in training.
        tables: The tables of its optimizers.
        structure: Its components.
        waiting: Growth that waits for a safe moment on this rank.
    """
    saved = tables.checkpoint_state(structure)
    if holds_shards(module):
        states = checkpoint.get("optimizer_states", [])
        checkpoint["optimizer_states"] = [
            numbered_as_by_torch(state, module, layout) for state, layout in zip(states, saved["groups"], strict=True)
        ]
    if isinstance(module, Growable):
        # a trigger knows again what is due, from the clock or from its own state; a call by the user would be lost
        calls = [request for request in waiting if request.asked_by == BY_USER]
        plain = [{"name": request.method.name, "arguments": dict(request.arguments)} for request in calls]
        by_rank = gather_from_all_ranks((collect_rng(), plain), "writing a checkpoint")
        saved |= {"rng": [rng for rng, _ in by_rank], "waiting": [waiting for _, waiting in by_rank]}
    checkpoint[CHECKPOINT_KEY] = saved


class ResumedFit:
    """What a checkpoint holds of the fit that wrote it.

    Args:
        checkpoint: The checkpoint, None for a fit that starts anew; one that was written without this package holds
            nothing for us.
    """

    def __init__(self, checkpoint: Mapping[str, Any] | None = None) -> None:
        saved = (checkpoint or {}).get(CHECKPOINT_KEY, {})
        self.from_checkpoint = checkpoint is not None
        self.layouts: Sequence[Any] | None = saved.get("groups")
        self.piece_settings: Sequence[Any] = saved.get("settings", [])
        self._rng: Sequence[dict[str, Any]] = saved.get("rng", [])
        self._waiting: Sequence[Sequence[Mapping[str, Any]]] = saved.get("waiting", [[]])

    def restore_rng(self, rank: int) -> None:
        """Restore the random numbers of a rank; a rank that the saved fit did not have keeps its own."""
        if rank < len(self._rng):
            restore_rng(self._rng[rank])

    def waiting_growth(self, module: nn.Module, rank: int) -> list[GrowthRequest]:
        """Growth that waited on a rank; for a rank that the saved fit did not have, growth that waited on rank 0.

        Raises:
            AttributeError: If the module has no such growth method.
            TypeError: If the arguments do not fit the method.
        """
        saved = self._waiting[rank if rank < len(self._waiting) else 0]
        return [request_by_name(module, call["name"], call["arguments"]) for call in saved]


def check_epoch_was_complete(checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Refuse a checkpoint that was written between the last batch of an epoch and its end, if the module can grow.

    Lightning resumes such a checkpoint at the start of the next epoch, and so skips validation, hooks, callbacks and
    schedulers at the end of the epoch; growth that the saved run carried out there would be missing.

    Raises:
        MisconfigurationException: If the module can grow; otherwise there is a warning.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    batches, epochs = loop.get("epoch_loop.batch_progress", {}), loop.get("epoch_progress", {}).get("current", {})
    batch = batches.get("current", {})
    # Lightning counts a batch as `processed` before the callbacks' on_train_batch_end, as `completed` after it
    if not (batches.get("is_last_batch") and batch["completed"] < batch["processed"]):
        return
    if epochs["processed"] == epochs["started"]:  # the epoch itself counts as processed, too
        return
    message = (
        f"the checkpoint was written after the last batch of epoch {checkpoint['epoch']} and before its validation and "
        "its end, which Lightning skips on resume, with all that callbacks, schedulers and growth do there. Resume "
        "from a checkpoint that was written within an epoch or at its end. "
        "ModelCheckpoint(every_n_train_steps=n) writes only such checkpoints if n does not divide the number of steps "
        "in an epoch."
    )
    if isinstance(module, Growable):
        raise MisconfigurationException(message)
    rank_zero_warn(message)
