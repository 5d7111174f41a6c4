"""Grow and train in the one Lightning that is left when the other is hidden: python namespace_worker.py LEFT HIDDEN."""

import importlib
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(structurenet_pl, pl, growable, callbacks=()):
    """The module after three epochs in the Trainer of a namespace, and the lrs that it ended with."""
    torch.manual_seed(0)
    torch.set_num_threads(1)

    class Net(growable):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList([nn.Linear(4, 4)])
            self.head = nn.Linear(4, 2)

        def training_step(self, batch, batch_idx):
            (x,) = batch
            for layer in self.body:
                x = layer(x).relu()
            return self.head(x).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

        @structurenet_pl.growth(role="new")
        def deepen(self):
            self.body.append(nn.Linear(4, 4))

    ours = [
        structurenet_pl.GrowEvery("deepen", 1, limit=1),
        structurenet_pl.Warmup(3),
        structurenet_pl.DepthDecay(),
        structurenet_pl.LARSScaler(0.1),
        *callbacks,
    ]
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=ours,
    )
    net = Net()
    x = torch.randn(16, 4)
    trainer.fit(net, DataLoader(TensorDataset(x), batch_size=4))
    return net, {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}


if __name__ == "__main__":
    left, hidden = sys.argv[1:]
    sys.modules[hidden] = None
    import structurenet_pl

    pl = importlib.import_module(left)
    assert issubclass(structurenet_pl.GrowableModule, pl.LightningModule)
    assert issubclass(structurenet_pl.Warmup, pl.Callback)
    print(sorted(train(structurenet_pl, pl, structurenet_pl.GrowableModule)[1].items()))
    assert hidden not in {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
