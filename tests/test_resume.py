"""Train 2N == train N, save, fresh process, N more: weights, optimizer state and lrs, bit for bit."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import LRTrace, Net, Plain, assert_same, example_factors, fit, loader
from structurenet_pl import GrowEvery

HALF = 3
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
}
GROWS_AT = {"before": HALF + 1, "at": HALF, "after": HALF - 1}  # when the run stops, seen from the growth
EXTRA = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}

ROWS = {
    f"{optimizer}-{stop}": {"optimizer": optimizer, "grow": grow, "extra": {}}
    for optimizer, (stop, grow) in itertools.product(OPTIMIZERS, GROWS_AT.items())
}
ROWS |= {f"{name}-extra": row | {"extra": EXTRA} for name, row in list(ROWS.items()) if name.startswith("adamw")}
ROWS |= {f"{name}-decay": row | {"split": True} for name, row in list(ROWS.items()) if name.startswith("adamw-a")}
ROWS["plain"] = {"optimizer": "adam", "grow": None, "extra": EXTRA}


def two_groups(make):
    """The usual decay / no decay, as people write it."""

    def optimizer(params):
        params = list(params)
        decay, no_decay = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
        return make([{"params": decay}, {"params": no_decay, "weight_decay": 0.0}])

    return optimizer


def start(row, epochs, callbacks=(), ckpt_path=None, **kwargs):
    make = OPTIMIZERS[row["optimizer"]]
    settings = {
        "optimizer": two_groups(make) if row.get("split") else make,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * HALF + 1),
    }
    record = LRTrace()
    if row["grow"] is None:
        # random numbers are restored for modules that grow, and only for them
        module, growth, data = Plain(**settings), [], loader(6, shuffle=False)
        module.body[2].p = 0.0
    else:
        module, data = Net(**settings), loader(6)
        growth = [
            GrowEvery("add_patch", row["grow"], limit=1, arguments={"at": 1}),
            GrowEvery("add_neck", row["grow"], limit=1),
        ]
    callbacks = [*growth, *example_factors(), record, *callbacks]
    trainer = fit(module, callbacks, epochs, ckpt_path, data=data, **row["extra"], **kwargs)
    optimizer = trainer.optimizers[0]
    return {
        "weights": dict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "lrs": [float(group["lr"]) for group in optimizer.param_groups],
        "rows": record.rows,
    }


def second_half(row, checkpoint):
    return start(row, 2 * HALF, ckpt_path=checkpoint)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """What a fresh process makes of checkpoints written at the end of epoch N."""
    folder = tmp_path_factory.mktemp("resume")
    torch.set_num_threads(1)
    for name, row in ROWS.items():
        seed_everything(1, verbose=False)
        save = ModelCheckpoint(folder / name, filename="half", save_on_train_epoch_end=True)
        start(row, HALF, [save], enable_checkpointing=True)
    worker = Path(__file__).with_name("resume_worker.py")
    subprocess.run([sys.executable, str(worker), str(folder)], check=True, timeout=600)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ROWS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_resumed_equals_uninterrupted(resumed, name):
    seed_everything(1, verbose=False)
    whole, second = start(ROWS[name], 2 * HALF), resumed[name]
    steps = len(second["rows"])
    assert steps == len(whole["rows"]) // 2
    assert second["rows"] == whole["rows"][-steps:]
    assert second["lrs"] == whole["lrs"]
    assert_same(second["optimizer"], whole["optimizer"])
    assert_same(second["weights"], whole["weights"])
    if ROWS[name]["grow"]:
        assert any("necks.0" in group for group in whole["rows"][-1]), "it should have grown"


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory")
def test_resumed_from_the_end_of_validation(tmp_path):
    """Data are shuffled and dropout is on: all random numbers must be those of the next epoch."""

    class Validated(Net):
        def validation_step(self, batch, batch_idx):
            """Nothing to do."""

        def val_dataloader(self):
            return loader(1, shuffle=False)

    def run(callbacks, ckpt_path=None):
        net = Validated()
        fit(net, [GrowEvery("add_neck", 2, limit=1), *callbacks], 4, ckpt_path, enable_checkpointing=True)
        return dict(net.state_dict())

    whole = run([ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=False)])
    for epoch in range(3):
        seed_everything(99, verbose=False)
        assert_same(run([], tmp_path / f"epoch={epoch}.ckpt"), whole)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    class Other(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    trainer = fit(Net(), epochs=1)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(ValueError, match=r"'body.0.bias'.*Resume with the module"):
        fit(Other(), epochs=2, ckpt_path=tmp_path / "net.ckpt")
