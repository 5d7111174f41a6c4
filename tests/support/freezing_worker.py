"""One of two processes under DDP, for test_freezing_distributed: all scenarios one after the other.

Started as ``freezing_worker.py first|second|alone folder`` with the rank in the environment.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from ddp_worker import WORLD, Ask, Forgiving, Grown, Sometimes, WithAdam, resume_halves, train, train_halves
from helpers import Toggling
from structurenet_pl import GrowEvery, LRFactor, ProgressiveFreeze
from structurenet_pl.freezing import component_freezer

ALL, THAW = ("all", 0, 1.0, 1.0, 0), ("thaw", 3, 1.0, 1.0, 0)
REST = ("rest", 1, 0.0, 1.0, -2)  # all but the last two depths


def by_epoch(**kwargs):
    return ProgressiveFreeze([ALL, REST, THAW], **kwargs)


def by_step(**kwargs):
    phases = [(name, 3 * start + 1 if start else 0, *rest) for name, start, *rest in (ALL, REST, THAW)]
    return ProgressiveFreeze(phases, unit="step", **kwargs)


def by_generation():
    return ProgressiveFreeze([("rest", 0, *REST[2:]), ("thaw", 2, *THAW[2:])], unit="generation")


def grows():
    """A frozen layer is widened in mid-epoch; a neck makes the last two depths others."""
    widens = GrowEvery("widen_body", 5, unit="step", limit=1, arguments={"width": 12})
    return [widens, GrowEvery("add_neck", 2, limit=1)]


class Toggled(Toggling, Grown):
    """Two optimizers, one for each end."""

    def configure_optimizers(self):
        ends = [[*self.body.parameters(), *self.patches.parameters()], [*self.head.parameters()]]
        return [torch.optim.SGD(end, lr=0.1, momentum=0.9) for end in ends]


class Normed(Grown):
    """Statistics are those of each rank."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body.insert(1, nn.BatchNorm1d(8))
        self.body.append(nn.BatchNorm1d(8))


class Statistics(Callback):
    """The buffers of both norms at the end of every epoch."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        norms = [part for part in pl_module.body if isinstance(part, nn.BatchNorm1d)]
        self.rows.append([{name: value.clone() for name, value in norm.named_buffers()} for norm in norms])


class EachItsOwn(LRFactor):
    """A user's own: the ranks freeze at one time, and each another component."""

    freezes = True
    unit = "epoch"

    def on_train_start(self, trainer, pl_module):
        self.mine = f"body.{3 * trainer.global_rank}"

    def factor(self, component, now):
        return 0.0 if now.clock.epoch == 2 and component.name == self.mine else 1.0


class NotAtTheThaw:
    """DDP is not told of a thaw."""

    def __enter__(self):
        self.before = component_freezer.rewrap_after_freezing
        component_freezer.rewrap_after_freezing = lambda trainer, frozen: (
            self.before(trainer, frozen) if frozen else None
        )

    def __exit__(self, *error):
        component_freezer.rewrap_after_freezing = self.before


def patched(freeze):
    """Each optimizer knows which patch is its own, which a neck between the two could not say."""
    patch = GrowEvery("add_patch", 2, limit=1, arguments={"at": 1})
    return {
        "make": Toggled,
        "callbacks": lambda: [freeze(), grows()[0], patch],
        "ddp": {"find_unused_parameters": True},
    }


def row(*callbacks, **kwargs):
    return {"callbacks": lambda: [make() for make in callbacks] + grows(), **kwargs}


ASKED = {"callbacks": lambda: [by_epoch(release_state=True), Ask("on_validation_end"), Ask("on_train_epoch_end")]}

# name: module, callbacks, arguments of DDPStrategy, arguments of the Trainer
TRAINS = {
    "epoch": row(by_epoch),
    "step": row(by_step),
    "released": row(lambda: by_step(release_state=True), make=WithAdam),
    "first": row(lambda: ProgressiveFreeze([("rest", 0, *REST[2:]), THAW])),
    "always": row(lambda: ProgressiveFreeze([("rest", 0, *REST[2:])])),
    "generation": row(by_generation),
    "middle": row(lambda: by_step(where=["body.3"])),
    "accumulate": row(by_step, accumulate_grad_batches=2),
    "unused": row(by_step, ddp={"find_unused_parameters": True}),
    "unused-sometimes": {
        "make": Sometimes,
        "callbacks": lambda: [by_step(), GrowEvery("add_patch", 4, unit="step", limit=2, arguments={"at": 1})],
        "ddp": {"find_unused_parameters": True},
    },
    "static": row(by_step, ddp={"static_graph": True}),
    "static-epoch": row(by_epoch, ddp={"static_graph": True}),
    "view": row(by_step, ddp={"gradient_as_bucket_view": True}),
    "view-accumulate": row(by_step, ddp={"gradient_as_bucket_view": True}, accumulate_grad_batches=2),
    "by-hand": patched(by_epoch),
    "by-hand-step": patched(by_step),
    "validation": ASKED,
    "validation-view": ASKED | {"ddp": {"gradient_as_bucket_view": True}, "gradient_clip_val": 0.1},
}
if "EMAWeightAveraging" in vars(callbacks):  # new in lightning 2.6
    TRAINS["average"] = row(by_step, lambda: callbacks.EMAWeightAveraging(decay=0.9))
NORMED = {
    "norms": {"make": Normed},
    "norms-apart": {"make": Normed, "ddp": {"broadcast_buffers": False}},
}
ALSO = {
    "control": row(by_epoch, around=NotAtTheThaw),
    "own": {"callbacks": lambda: [EachItsOwn()]},
    "forgiven": {
        "callbacks": lambda: [
            ProgressiveFreeze([("rest", 0, *REST[2:]), ("thaw", 2, *THAW[2:])]),
            Forgiving("add_broken", 2, limit=1),
        ]
    },
}
RESUMED = {"epoch", "released", "static", "by-hand"}


def first(folder, rank):
    """All scenarios, and the first half of one to be resumed."""
    found = {name: train(one, rank, WORLD) for name, one in (TRAINS | ALSO).items()}
    for name, one in NORMED.items():
        seen = Statistics()
        found[name] = train(one | {"callbacks": lambda seen=seen: [by_epoch(), seen]}, rank, WORLD)
        found[name]["statistics"] = seen.rows
    train_halves({name: TRAINS[name] for name in RESUMED}, folder, rank)
    return found


def second(folder, rank):
    return resume_halves({name: TRAINS[name] for name in RESUMED}, folder, rank)


def alone(folder, rank):
    """DDP on one process, as ``strategy="ddp"`` is on a machine with one device."""
    return {name: train(TRAINS[name] | {"strategy": DDPStrategy}) for name in ("epoch", "static")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["LOCAL_RANK"])
    found = {"first": first, "second": second, "alone": alone}[part](folder, rank)
    torch.save(found, folder / f"{part}-{rank}.pt")
