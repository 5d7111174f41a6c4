"""One of two processes under FSDP2, for test_growth_sharded and test_freezing_sharded: all scenarios of a part.

Started as ``sharded_worker.py part folder`` with the rank in the environment. The rows are those of
``ddp_worker`` and ``freezing_worker`` with networks whose parameters are divided among the processes, and some more.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import ddp_worker
import freezing_worker
from ddp_worker import (
    WORLD,
    Grown,
    WithAdam,
    by_epoch,
    resume_halves,
    train,
    train_halves,
    with_slow_cohorts,
)
from helpers import example_factors
from recorders import OwnLogger
from structurenet_pl import GrowEvery, LARSScaler, StrataMonitor, explain
from structurenet_pl.distributed.sharding import ShardedUnits
from structurenet_pl.learning_rates.norms import StepNorms
from structurenet_pl.structure.sharded_tensors import is_sharded

FSDP2 = {"strategy": ModelParallelStrategy, "ddp": {"data_parallel_size": WORLD, "tensor_parallel_size": 1}}


class InUnits:
    """Each linear layer of the body is a unit, all the rest is the root unit."""

    def configure_model(self):
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for unit in (self.body[0], self.body[3], self):
                fully_shard(unit, mesh=mesh)


def in_units(row, **kwargs):
    """A row with its network in units, and with other arguments of the strategy."""
    make = row.get("make", Grown)
    units = {"make": type(f"Sharded{make.__name__}", (InUnits, make), {})}
    return row | units | FSDP2 | {"ddp": FSDP2["ddp"] | kwargs}


class Forgotten:
    """New parameters stay as the growth method has made them, and nobody divides them."""

    def __enter__(self):
        self.before = ShardedUnits.follow
        ShardedUnits.follow = lambda units: None

    def __exit__(self, *error):
        ShardedUnits.follow = self.before


MORE = {
    "lars": {"callbacks": lambda: [LARSScaler(trust_coefficient=0.1, clip=10.0, skip_1d=False)]},
    "lars-grad": {"callbacks": lambda: [LARSScaler(0.1, mode="grad")]},
    "all-factors-adam": {"make": WithAdam, "callbacks": example_factors},
}
# growth in setup comes before configure_model, and a module in units cannot be copied for averages
TRAINS = {
    name: row
    for name, row in (ddp_worker.TRAINS | MORE).items()
    if "ddp" not in row and name not in ("setup", "average")
}
# of a sharded parameter there is no second copy that could differ
FAILS = {name: row for name, row in ddp_worker.FAILS.items() if name not in ("sharded", "diverged")}
ALSO = {
    "control": {"callbacks": by_epoch, "around": Forgotten},
    "forgiven": ddp_worker.ALSO["forgiven"],
    "forgiven-shuffled": ddp_worker.ALSO["forgiven-shuffled"],
}


FREEZES = {name: row for name, row in freezing_worker.TRAINS.items() if "ddp" not in row and name != "average"}
IN_FOLDERS, IN_FILES = ("epoch", "cohorts"), ("restructured-adam", "factors")
RESUMED = {name: in_units(TRAINS[name]) for name in IN_FOLDERS} | {
    name: in_units(TRAINS[name], save_distributed_checkpoint=False) for name in IN_FILES
}


def all_of(rows):
    return lambda folder, rank: {name: train(in_units(row), rank, WORLD) for name, row in rows.items()}


def growth(folder, rank):
    """All scenarios, and the first half of some to be resumed."""
    found = all_of(TRAINS | ALSO | FAILS)(folder, rank)
    train_halves(RESUMED, folder, rank)
    return found


def second(folder, rank):
    return resume_halves(RESUMED, folder, rank)


def from_one(folder, rank):
    """The second half of a run that one process began without FSDP2."""
    row = in_units(TRAINS["restructured-adam"])
    return train(row, rank, WORLD, ckpt_path=folder / "alone" / "half.ckpt")


def from_ddp(folder, rank):
    """The second half of runs whose first half was under DDP."""
    train_halves({name: TRAINS[name] for name in IN_FILES}, folder / "ddp", rank)
    return resume_halves({name: in_units(TRAINS[name]) for name in IN_FILES}, folder / "ddp", rank)


def to_ddp(folder, rank):
    """The second half under DDP of runs that began in units."""
    return resume_halves({name: TRAINS[name] for name in IN_FILES}, folder, rank)


def on_one(folder, rank):
    """The second half, on one process under FSDP2, of runs that two processes began."""
    return {
        name: train(row | {"ddp": row["ddp"] | {"data_parallel_size": 1}}, ckpt_path=folder / name / "half.ckpt")
        for name, row in RESUMED.items()
    }


def seen(row, rank, world):
    """What the monitor has measured, and the lrs that ``explain`` gives."""
    norms, explained, read = [], [], StepNorms.read
    StepNorms.read = lambda step: norms.append(read(step)) or norms[-1]

    class Explain(Callback):
        def on_train_end(self, trainer, pl_module):
            explained.extend((entry.title, entry.lr, entry.parameters) for entry in explain(trainer))

    def callbacks():
        return [*with_slow_cohorts(), LARSScaler(0.1, skip_1d=False), StrataMonitor(norms=True), Explain()]

    try:
        found = train(row | {"callbacks": callbacks, "logger": OwnLogger(), "log_every_n_steps": 1}, rank, world)
    finally:
        StepNorms.read = read
    return {"error": found["error"], "norms": norms, "explained": explained}


class Planned(Grown):
    """The body is divided by a tensor-parallel plan, and both processes train on the same data."""

    def configure_model(self):
        if self.device_mesh is not None and not is_sharded(self.body[0].weight):
            plan = {"0": ColwiseParallel(), "3": RowwiseParallel()}
            parallelize_module(self.body, self.device_mesh["tensor_parallel"], plan)


def planned(callbacks):
    strategy = {"strategy": ModelParallelStrategy, "ddp": {"data_parallel_size": 1, "tensor_parallel_size": WORLD}}
    return strategy | {"make": Planned, "callbacks": callbacks, "shares": 1}


PLANS = {
    "factors": example_factors,
    "outside": lambda: [*ddp_worker.by_step(), *example_factors()],
    "inside": lambda: [GrowEvery("widen_body", 1, arguments={"width": 12})],
    "between": lambda: [GrowEvery("bend", 1)],
}
PARTS = {
    "monitor": lambda folder, rank: seen(in_units({}), rank, WORLD),
    "plans": lambda folder, rank: {name: train(planned(callbacks), rank, WORLD) for name, callbacks in PLANS.items()},
    "growth": growth,
    "freezing": all_of(FREEZES),
    "second": second,
    "from_one": from_one,
    "from_ddp": from_ddp,
    "to_ddp": to_ddp,
    "on_one": on_one,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["LOCAL_RANK"])
    torch.save(PARTS[part](folder, rank), folder / f"{part}-{rank}.pt")
