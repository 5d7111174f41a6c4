"""One of two processes under FSDP2, for test_growth_sharded and test_freezing_sharded: all scenarios of a part.

Started as ``sharded_worker.py growth|freezing folder`` with the rank in the environment. The rows are those of
``ddp_worker`` and ``freezing_worker`` with networks whose parameters are divided among the processes, and some more.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, fully_shard

import ddp_worker
import freezing_worker
from ddp_worker import WORLD, Grown, WithAdam, by_epoch, train
from helpers import example_factors
from structurenet_pl import LARSScaler
from structurenet_pl.distributed.sharding import ShardedUnits

FSDP2 = {"strategy": ModelParallelStrategy, "ddp": {"data_parallel_size": WORLD, "tensor_parallel_size": 1}}


class InUnits:
    """Each linear layer of the body is a unit, all the rest is the root unit."""

    def configure_model(self):
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for unit in (self.body[0], self.body[3], self):
                fully_shard(unit, mesh=mesh)


def in_units(row):
    """A row with its network in units."""
    make = row.get("make", Grown)
    return row | {"make": type(f"Sharded{make.__name__}", (InUnits, make), {})} | FSDP2


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
PARTS = {"growth": TRAINS | ALSO | FAILS, "freezing": FREEZES}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["LOCAL_RANK"])
    found = {name: train(in_units(row), rank, WORLD) for name, row in PARTS[part].items()}
    torch.save(found, folder / f"{part}-{rank}.pt")
