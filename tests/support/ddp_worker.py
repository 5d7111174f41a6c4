"""One of two processes under DDP, for test_growth_distributed: all scenarios one after the other.

Started as ``ddp_worker.py first|second|launch folder`` with the rank in the environment.
"""

import os
import pickle
import sys
import warnings
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from helpers import Net, example_factors, loader
from structurenet_pl import AgeDecay, GrowEvery, GrowOnPlateau, LRFactor, Warmup, came_from, growth, widen
from structurenet_pl.distributed import communication
from structurenet_pl.distributed.growth_agreement import AgreementOfRanks
from structurenet_pl.structure import sharded_tensors
from structurenet_pl.structure.sharded_tensors import local_entries

EPOCHS, BATCHES, WORLD = 4, 4, 2


class Grown(Net):
    """Equal on all ranks but for the random numbers, which growth methods draw from."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body[2].p = 0.0

    @growth()
    def widen_body(self, width: int):
        widen(self.body[0], self.body[3], width, noise=0.1)  # which draws from the random numbers of the rank

    @growth()
    def widen_by_rank(self, width: int | None = None):
        width = width or 12 + self.global_rank
        widen(self.body[0], self.body[3], width)
        return {"width": width}

    @growth()
    def copy_by_rank(self, width: int | None = None):
        width, weight = width or 12 + self.global_rank, sharded_tensors.whole(self.head.weight.detach())
        self.patches.append(nn.Sequential(nn.Linear(8, width), nn.Linear(width, 8)))
        with torch.no_grad():
            self.patches[-1][1].weight[:3, :8] = weight
        return {"width": width}

    @growth()
    def widen_unequally(self):
        widen(self.body[0], self.body[3], 12 + self.global_rank)

    @growth()
    def widen_sometimes(self):
        if self.global_rank == 1:
            self.patches.append(nn.Linear(8, 8))
        else:
            widen(self.body[0], self.body[3], 12)

    @growth()
    def widen_and_catch(self):
        try:
            if self.global_rank == 1:
                raise ValueError("no room")
            widen(self.body[0], self.body[3], 12)
        except Exception:  # which hides the error of the comparison, too
            self.caught = True

    @growth()
    def widen_on_one(self):
        if self.global_rank == 1:
            raise ValueError("no room")
        widen(self.body[0], self.body[3], 12)

    @growth()
    def bend(self):
        self.body[1] = nn.PReLU()

    @growth()
    def drop_patch(self):
        del self.patches[0]

    @growth(role="patch")
    def add_broken(self):
        self.patches.append(nn.Linear(8, 8))
        if self.global_rank == 1:
            raise ValueError("no room")

    @growth(role="patch")
    def add_uneven(self):
        self.patches.append(nn.Linear(8, 8 + 8 * self.global_rank))

    @growth(role="patch")
    def add_by_chance(self, width: int | None = None):
        width = width or int(torch.randint(4, 64, ()))
        self.patches.append(nn.Sequential(nn.Linear(8, width), nn.Linear(width, 8)))
        return {"width": width}

    @growth()
    def shuffle(self):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(self.global_rank)).tolist()
        first, second = self.body[0], self.body[3]
        first.weight = came_from(nn.Parameter(first.weight.detach()[order]), order)
        first.bias = came_from(nn.Parameter(first.bias.detach()[order]), order)
        second.weight = came_from(nn.Parameter(second.weight.detach()[:, order]), order, dim=1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)


class AsksItself(Grown):
    """Asks where people ask: in its own hooks, and while a batch is under way."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 0 and batch_idx == 1:
            assert self.add_neck() is None
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        if self.current_epoch == 1:
            self.add_patch(at=1)


class ByHand(Grown):
    """Steps its optimizer itself."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()

    def configure_optimizers(self):
        return super().configure_optimizers()["optimizer"]


class WithAdam(Grown):
    def __init__(self, **kwargs):
        super().__init__(optimizer=partial(torch.optim.Adam, lr=0.01), **kwargs)


class Sometimes(Grown):
    """The newborn patches have no part in every second batch."""

    def training_step(self, batch, batch_idx):
        self.without = batch_idx % 2
        return super().training_step(batch, batch_idx)

    def forward(self, x):
        return self.head(self.body(x)) if getattr(self, "without", False) else super().forward(x)


class Sharded(Grown):
    def configure_model(self):
        """ModelParallelStrategy wants one."""


class Ask(Callback):
    """Calls a growth method at the end of the second validation or epoch, on some of the ranks."""

    def __init__(self, hook, method="add_neck", ranks=(0, 1)):
        self.method, self.ranks = method, ranks
        setattr(self, hook, self.ask)

    def ask(self, trainer, pl_module):
        if trainer.current_epoch == 1 and trainer.global_rank in self.ranks:
            getattr(pl_module, self.method)()


class Chain(Callback):
    """A growth that follows another."""

    def on_growth(self, trainer, pl_module, event):
        if event.method == "add_neck":
            pl_module.add_patch(at=1)


class TooLate(Callback):
    def on_train_end(self, trainer, pl_module):
        pl_module.add_neck()


class SetupGrowth(Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.add_neck()


class Forgiving(GrowEvery):
    """Goes on after a failed growth."""

    error = None

    def on_train_epoch_end(self, trainer, pl_module):
        wrapper, groups = trainer.strategy.model, len(trainer.optimizers[0].param_groups)
        try:
            super().on_train_epoch_end(trainer, pl_module)
        except (RuntimeError, ValueError) as error:
            self.error = str(error)
            assert trainer.strategy.model is wrapper
            assert len(trainer.optimizers[0].param_groups) == groups
            assert not pl_module.growth_log
            assert not pl_module.patches


class Disturb(Callback):
    """What a forgotten reduction would do."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1:
            pl_module.head.bias.data[0] += 1e-6


class ByRank(LRFactor):
    """A factor that depends on what not all ranks know."""

    def factor(self, component, now):
        return 1.0 if now.clock.epoch < 1 else 1.0 / (1 + int(os.environ["LOCAL_RANK"]))


class Look(Callback):
    """Counts what growth asks of the other processes."""

    def __init__(self):
        self.flags = self.gathers = self.largest = 0

    def on_fit_start(self, trainer, pl_module):
        self.flag, self.gather = communication.max_over_ranks, torch.distributed.all_gather_object
        communication.max_over_ranks = lambda *args: self.count("flags", self.flag(*args))
        torch.distributed.all_gather_object = self.counted_gather

    def counted_gather(self, object_list, obj, group=None):  # torch.distributed.checkpoint passes them by name
        self.largest = max(self.largest, len(pickle.dumps(obj)))
        return self.count("gathers", self.gather(object_list, obj, group))

    def count(self, what, value):
        setattr(self, what, getattr(self, what) + 1)
        return value

    def on_fit_end(self, trainer, pl_module):
        communication.max_over_ranks, torch.distributed.all_gather_object = self.flag, self.gather

    def on_exception(self, trainer, pl_module, exception):
        if hasattr(self, "flag"):
            self.on_fit_end(trainer, pl_module)


def by_epoch():
    return [GrowEvery("add_patch", 1, limit=3, arguments={"at": 1})]


def by_step():
    return [GrowEvery("add_patch", 3, unit="step", limit=4, arguments={"at": 1}), GrowEvery("add_neck", 2, limit=1)]


def by_all():
    return [
        GrowEvery("add_patch", 3, unit="step", limit=2, arguments={"at": 1}),
        GrowEvery("widen_body", 1, limit=1, arguments={"width": 12}),
        GrowEvery("drop_patch", 2, limit=1),
    ]


def with_slow_cohorts():
    return [*by_all(), Warmup(6, unit="step"), AgeDecay(0.5)]


class Untouched:
    """DDP stays as it was before the growth, and nobody checks."""

    def __enter__(self):
        self.before = AgreementOfRanks.compare_and_rewrap
        AgreementOfRanks.compare_and_rewrap = lambda agreement, change: agreement._share("has grown", None)

    def __exit__(self, *error):
        AgreementOfRanks.compare_and_rewrap = self.before


# name: module, callbacks, arguments of DDPStrategy, arguments of the Trainer
TRAINS = {
    "epoch": {"callbacks": by_epoch},
    "step": {"callbacks": by_step},
    "factors": {"callbacks": lambda: [*by_step(), *example_factors()]},
    "accumulate": {"callbacks": by_step, "accumulate_grad_batches": 2},
    "unused": {"make": Sometimes, "callbacks": by_step, "ddp": {"find_unused_parameters": True}},
    "static": {"callbacks": by_step, "ddp": {"static_graph": True}},
    "view": {"callbacks": by_step, "ddp": {"gradient_as_bucket_view": True}},
    "view-accumulate": {
        "callbacks": by_step,
        "ddp": {"gradient_as_bucket_view": True},
        "accumulate_grad_batches": 2,
    },
    "by-hand": {"make": ByHand, "callbacks": by_step},
    "init-sync": {"callbacks": by_epoch, "ddp": {"init_sync": False}},
    "chance": {"callbacks": lambda: [GrowEvery("add_by_chance", 1, limit=3)]},
    "decided": {"callbacks": lambda: [GrowEvery("widen_by_rank", 1, limit=1)]},
    "decided-copy": {"callbacks": lambda: [GrowEvery("copy_by_rank", 1, limit=1)]},
    "validation": {"callbacks": lambda: [Ask("on_validation_end")]},
    "validation-no-grad": {"callbacks": lambda: [Ask("on_validation_end")], "inference_mode": False},
    "validation-view": {
        "callbacks": lambda: [Ask("on_validation_end")],
        "ddp": {"gradient_as_bucket_view": True},
        "gradient_clip_val": 0.1,
    },
    "epoch-asked": {"callbacks": lambda: [Ask("on_train_epoch_end")]},
    "chain": {"callbacks": lambda: [Ask("on_validation_end"), Chain()]},
    "plateau": {"callbacks": lambda: [GrowOnPlateau("add_neck", "val_loss", patience=1, min_delta=9.0, limit=2)]},
    "restructured": {"callbacks": by_all},
    "restructured-adam": {"make": WithAdam, "callbacks": by_all},
    "cohorts": {"callbacks": with_slow_cohorts},
    "cohorts-adam": {"make": WithAdam, "callbacks": with_slow_cohorts, "accumulate_grad_batches": 2},
    "itself": {"make": AsksItself},
    "setup": {"callbacks": lambda: [SetupGrowth()]},
    "never": {},
}
if "_pl_static_graph_delay_done" in vars(DDPStrategy()):  # before, lightning does not reduce the gradients
    TRAINS["by-hand-static"] = {"make": ByHand, "callbacks": by_step, "ddp": {"static_graph": True}}
if "EMAWeightAveraging" in vars(callbacks):  # new in lightning 2.6
    TRAINS["average"] = {"callbacks": lambda: [*by_all(), callbacks.EMAWeightAveraging(decay=0.9)]}
FAILS = {
    "one-rank": {"callbacks": lambda: [Ask("on_train_epoch_end", ranks=(1,))]},
    "one-rank-validation": {"callbacks": lambda: [Ask("on_validation_end", ranks=(0,))]},
    "broken": {"callbacks": lambda: [GrowEvery("add_broken", 1)]},
    "uneven": {"callbacks": lambda: [GrowEvery("add_uneven", 1)]},
    "wider-unequally": {"callbacks": lambda: [GrowEvery("widen_unequally", 1)]},
    "wider-sometimes": {"callbacks": lambda: [GrowEvery("widen_sometimes", 1)]},
    "wider-on-one": {"callbacks": lambda: [GrowEvery("widen_on_one", 1)]},
    "wider-caught": {"callbacks": lambda: [GrowEvery("widen_and_catch", 1)]},
    "arguments": {"callbacks": lambda: [GrowEvery("add_patch", 1, arguments={"at": int(os.environ["LOCAL_RANK"])})]},
    "diverged": {"callbacks": lambda: [Disturb(), *by_epoch()]},
    "positions": {"make": WithAdam, "callbacks": lambda: [GrowEvery("shuffle", 1)]},
    "one-trigger": {"callbacks": lambda: [] if os.environ["LOCAL_RANK"] == "1" else by_epoch()},
    "other-trigger": {"callbacks": lambda: [GrowEvery("add_neck", 1 + int(os.environ["LOCAL_RANK"]))]},
    "factor": {"callbacks": lambda: [ByRank()]},
    "sharded": {"make": Sharded, "callbacks": by_epoch, "strategy": ModelParallelStrategy},
}
SAYS = {
    "one-rank": r"different growth \(rank 0: nothing; rank 1: add_neck\(\)\)",
    "one-rank-validation": r"different growth \(rank 0: add_neck\(\); rank 1: nothing\)",
    "broken": "no room",
    "uneven": r"undone on every rank.*rank 1 differs from rank 0 in 'patches.0.weight': torch.float32\[16, 8\] there",
    "wider-unequally": r"undone on every rank.*rank 1 differs from rank 0 in 'body.0.weight': torch.float32\[13, 6\]",
    "wider-sometimes": r"undone on every rank.*rank 1 differs from rank 0 in 'body.0.weight'",
    "wider-on-one": "no room",
    "wider-caught": r"undone on every rank|changed no parameters",
    "arguments": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': .*{\"at\": 1}.* there",
    "diverged": r"before add_patch\(at=1, inner=4\), rank 1 differs from rank 0 in 'head.bias'",
    "positions": r"shuffle\(\) was undone on every rank.*in 'where the entries of body.0.weight come from'",
    "one-trigger": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': None there",
    "other-trigger": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': .*\"every\": 2",
    "factor": r"at step 4 the learning rates differ: .*sync_dist=True.*in 'the lr of body.0 in optimizer 0': ",
    "sharded": "not supported under ModelParallelStrategy.*grow before the fit",
}
ALSO = {
    "control": {"callbacks": by_epoch, "around": Untouched},
    "late": {"callbacks": lambda: [TooLate()]},
    "forgiven": {"callbacks": lambda: [Forgiving("add_broken", 1, limit=1)]},
    "forgiven-shuffled": {"callbacks": lambda: [Forgiving("shuffle", 1, limit=1)]},
}
RESUMED = {"factors", "epoch", "itself", "restructured-adam", "cohorts", "average"} & TRAINS.keys()


def batches(rank, world):
    """Each rank's share of the same global batches."""
    data = loader(BATCHES).dataset
    shares = [list(range(start + rank, start + 8, world)) for start in range(0, 8 * BATCHES, 8)]
    return DataLoader(data, batch_sampler=shares)


def train(row, rank=0, world=1, more=(), ckpt_path=None, epochs=EPOCHS):
    """Fit on one rank; what came of it."""
    row = dict(row)
    make, ddp, around = row.pop("make", Grown), row.pop("ddp", {}), row.pop("around", nullcontext)
    mine, shares = row.pop("callbacks", list)(), row.pop("shares", world)
    look = Look()
    kind = row.pop("strategy", DDPStrategy if world > 1 else None)
    if kind is not None:
        row["strategy"] = kind(**ddp, process_group_backend="gloo", timeout=timedelta(seconds=30))
    torch.manual_seed(1)
    module = make(scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS))
    torch.manual_seed(1 + rank)  # what is born differs
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        max_epochs=epochs,
        use_distributed_sampler=False,
        callbacks=[*mine, *([look] if world > 1 else []), *more],
        **{"enable_checkpointing": bool(more)} | quiet | row,
    )
    error = None
    try:
        with around(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            data = [batches(rank % shares, shares) for _ in range(2)]
            trainer.fit(module, *data, ckpt_path=ckpt_path)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    whole = local_entries if error else sharded_tensors.whole  # after an error, not all ranks may get as far as here
    return {
        "weights": {name: whole(value) for name, value in module.state_dict().items() if name != "growth_log"},
        "log": [(event.method, event.clock) for event in module.growth_log],
        "optimizer": tree_map_only(Tensor, whole, trainer.optimizers[0].state_dict()) if trainer.optimizers else {},
        "rng": torch.get_rng_state(),
        "error": error or next((one.error for one in mine if isinstance(one, Forgiving)), None),
        "warned": [str(warning.message) for warning in warned],
        "cost": (look.flags, look.gathers),
        "largest": look.largest,
    }


def train_halves(rows, folder, rank):
    """The first half of scenarios to be resumed."""
    for name in sorted(rows):
        save = ModelCheckpoint(folder / name, filename="half", save_on_train_epoch_end=True)
        train(rows[name], rank, WORLD, [save], epochs=EPOCHS // 2)


def resume_halves(rows, folder, rank):
    """The second half, with other random numbers to start from."""
    torch.rand(17)
    return {name: train(rows[name], rank, WORLD, ckpt_path=folder / name / "half.ckpt") for name in sorted(rows)}


def first(folder, rank):
    """All scenarios, and the first half of some to be resumed."""
    found = {name: train(row, rank, WORLD) for name, row in (TRAINS | ALSO | FAILS).items()}
    train_halves({name: TRAINS[name] for name in RESUMED}, folder, rank)
    return found


def second(folder, rank):
    return resume_halves({name: TRAINS[name] for name in RESUMED}, folder, rank)


def from_one(folder, rank):
    """The second half of a run that one process began."""
    return train(TRAINS["epoch"], rank, WORLD, ckpt_path=folder / "alone" / "half.ckpt")


def launched(strategy):
    """What a main process is given that does not train itself."""
    torch.manual_seed(1)
    module = Grown(optimizer=partial(torch.optim.SGD, lr=0.1))  # which can be pickled
    trainer = Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=strategy,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=by_epoch(),
    )
    trainer.fit(module, loader(BATCHES))
    return {"log": [event.born for event in module.growth_log], "weights": dict(module.named_parameters())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder = sys.argv[1], Path(sys.argv[2])
    if part == "launch":
        found = {strategy: launched(strategy) for strategy in ("ddp_fork", "ddp_spawn")}
        torch.save(found, folder / "launch.pt")
    else:
        rank = int(os.environ["LOCAL_RANK"])
        torch.save(
            {"first": first, "second": second, "from_one": from_one}[part](folder, rank), folder / f"{part}-{rank}.pt"
        )
