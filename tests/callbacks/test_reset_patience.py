"""Early stopping and plateau schedulers after growth."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from helpers import Net, fit, loader
from structurenet_pl import GrowEvery, ResetPatience


class Stagnant(Net):
    """Its metric gets worse and worse; it reduces its lr when that has been seen often enough."""

    def __init__(self, patience=2, cooldown=0, **kwargs):
        super().__init__(**kwargs)
        self.patience, self.cooldown = patience, cooldown

    def validation_step(self, batch, batch_idx):
        self.log("metric", float(self.current_epoch))

    def val_dataloader(self):
        return loader(1, shuffle=False)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        scheduler = ReduceLROnPlateau(optimizer, patience=self.patience, cooldown=self.cooldown)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "metric"}}


def train(callbacks, epochs=9, grow=2, limit=1, **kwargs):
    torch.manual_seed(0)
    growing = GrowEvery("add_neck", grow, limit=limit)
    trainer = fit(Stagnant(**kwargs), [growing, *callbacks], epochs, data=loader(1))
    return trainer, trainer.lr_scheduler_configs[0].scheduler


@pytest.mark.parametrize(
    ("grow", "limit", "callbacks", "stopped"),
    [
        (2, 1, [], 4),  # best in epoch 0, patience 3: after epochs 1, 2, 3
        (2, 1, [ResetPatience()], 5),  # grown when epoch 1 was over: after epochs 2, 3, 4
        (2, 2, [ResetPatience()], 7),  # again when epoch 3 was over: after epochs 4, 5, 6
        (2, 2, [ResetPatience(early_stopping=False)], 4),
    ],
)
def test_early_stopping_waits_anew(grow, limit, callbacks, stopped):
    stopping = EarlyStopping("metric", patience=3, check_on_train_epoch_end=False)
    trainer, _ = train([stopping, *callbacks], grow=grow, limit=limit, patience=99)
    assert trainer.current_epoch == stopped
    assert float(stopping.best_score) == 0.0


@pytest.mark.parametrize(
    ("callbacks", "reduced"),
    [
        ([], 4),  # best in epoch 0, reduced when more than 2 are bad: epochs 1, 2, 3
        ([ResetPatience()], 5),  # grown at the end of epoch 2, whose metric comes in thereafter: epochs 2, 3, 4
        ([ResetPatience(schedulers=False)], 4),
    ],
)
def test_plateau_schedulers_wait_anew(callbacks, reduced):
    for epochs in (reduced - 1, reduced):
        _, scheduler = train(callbacks, epochs, grow=3)
        assert (scheduler.optimizer.param_groups[0]["lr"] < 1.0) is (epochs == reduced)
        assert scheduler.best == 0.0


def test_cooldown_goes_on():
    _, scheduler = train([ResetPatience()], epochs=3, grow=3, patience=0, cooldown=5)
    assert scheduler.cooldown_counter == 4


def test_nothing_to_reset():
    with pytest.raises(ValueError, match="nothing to reset"):
        ResetPatience(early_stopping=False, schedulers=False)
