"""Train 2N == train N, save, fresh process, N more: weights, optimizer state and lrs, bit for bit."""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import resume_worker
from helpers import Net, Plain, assert_same, fit, loader, weights
from resume_worker import HALF, ROWS, start
from structurenet_pl import GrowEvery, RoleLR, growth


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The second halves, trained by a fresh process from checkpoints of the end of epoch N."""
    folder = tmp_path_factory.mktemp("resume")
    torch.set_num_threads(1)
    for name, row in ROWS.items():
        seed_everything(1, verbose=False)
        save = ModelCheckpoint(folder / name, filename="half", save_on_train_epoch_end=True)
        start(row, HALF, [save], enable_checkpointing=True)
    subprocess.run([sys.executable, resume_worker.__file__, str(folder)], check=True, timeout=600)
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


class StatefulLoader:
    """Continues at its last position, as torchdata's StatefulDataLoader does."""

    def __init__(self):
        self.batches, self.at, self.goes_on = list(loader(6, shuffle=False)), 0, False

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.at = self.at if self.goes_on else 0
        self.goes_on = False
        while self.at < len(self.batches):
            self.at += 1
            yield self.batches[self.at - 1]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at, self.goes_on = state["at"], True


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
@pytest.mark.parametrize("common_recipe", [False, True])
def test_resumed_within_an_epoch_with_a_schedule_that_reads_the_length_of_the_run(common_recipe, tmp_path):
    """Lightning then sets the loader up before it loads the checkpoint, and does not restore it (its issue #20550)."""

    class OneCycle(Plain):
        def train_dataloader(self):
            return StatefulLoader()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            steps = self.trainer.estimated_stepping_batches if common_recipe else 12
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def on_train_batch_start(self, batch, batch_idx):
            self.seen = [*getattr(self, "seen", []), batch[0].sum().item()]

    def train(ckpt_path=None, more=()):
        seed_everything(1, verbose=False)
        module = OneCycle()
        module.body[2].p = 0.0
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=bool(more),
            callbacks=[RoleLR({"nobody": 0.5}), *more],
        )
        trainer.fit(module, ckpt_path=ckpt_path)
        return module.seen, weights(module)

    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    seen, whole = train(more=[save])
    again, resumed = train(tmp_path / "step=4.ckpt")
    assert again == seen[4:]
    assert_same(resumed, whole)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resumed_groups_have_the_same_names_with_an_empty_group(tmp_path):
    class Empties(Net):
        def __init__(self):
            super().__init__()
            self.necks.append(torch.nn.Linear(8, 8))

        def configure_optimizers(self):
            necks = set(self.necks.parameters())
            others = [tensor for tensor in self.parameters() if tensor not in necks]
            return torch.optim.SGD([{"params": others}, {"params": list(necks), "weight_decay": 0.1}], lr=0.1)

        @growth()
        def drop(self):
            del self.necks[0]

    def names(trainer):
        return [(group["name"], len(group["params"])) for group in trainer.optimizers[0].param_groups]

    drop = [GrowEvery("drop", 1, limit=1)]
    save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(Empties(), [*drop, save], epochs=3, enable_checkpointing=True)
    options = {"enable_checkpointing": True, "ckpt_path": tmp_path / "epoch=1.ckpt"}
    resumed = fit(Empties(), [*drop, ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)], epochs=3, **options)
    assert names(whole)[-1] == ("empty", 0)
    assert names(resumed) == names(whole)
    assert_same(weights(resumed.lightning_module), weights(whole.lightning_module))
