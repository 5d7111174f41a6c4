"""Train a network on images in memory by a Lightning Trainer, and measure it."""

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from examples.evidence.data import Part


def loader(part: Part, batch_size: int = 64) -> DataLoader:
    """Shuffled batches, each taken from the tensors by one index: many times faster than image by image."""
    images = TensorDataset(*part)
    return DataLoader(images, sampler=BatchSampler(RandomSampler(images), batch_size, drop_last=True), batch_size=None)


def fit(
    net: LightningModule,
    part: Part,
    epochs: int,
    callbacks: Iterable[Callback] = (),
    batch_size: int = 64,
    resume: str | None = None,
) -> Trainer:
    """Train a network; go on from a checkpoint, if there is one to ``resume``."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(net, loader(part, batch_size), ckpt_path=resume)
    return trainer


@torch.no_grad()
def loss(net: LightningModule, part: Part) -> float:
    """Mean cross entropy."""
    return cross_entropy(net(part.images), part.labels).item()


@torch.no_grad()
def accuracy(net: LightningModule, part: Part) -> float:
    """Share of right labels."""
    return (net(part.images).argmax(1) == part.labels).float().mean().item()


class ResetState(Callback):
    """Throw the state of the optimizer away at each growth, as is common practice."""

    def __init__(self) -> None:
        self.grown = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Sequence, batch_idx: int
    ) -> None:
        if len(pl_module.growth_log) > self.grown:
            self.grown = len(pl_module.growth_log)
            trainer.optimizers[0].state.clear()
