"""The networks: an MLP and a small CNN of equal structure, which can get new layers before the head."""

from typing import Literal

import torch
from torch import Tensor, nn

from structurenet_pl import GrowableModule, growth, identity_like

Kind = Literal["mlp", "cnn"]
Schedule = Literal["constant", "cosine"]


def init_he(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialise a layer for ReLU (He)."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


class Net(GrowableModule):
    """Scaffold (stem and two blocks), grown blocks, head.

    Args:
        kind: ``"mlp"`` for Linear layers, ``"cnn"`` for 3 x 3 convolutions with one max-pool and a global average.
        side: Pixels of an image in each direction.
        lr: Base lr.
        schedule: Schedule of the base lr over the whole fit, in each step.
        width: Units or channels of each layer.
        optimizer: Class of the optimizer.
        options: Further arguments of the optimizer.
    """

    def __init__(
        self,
        kind: Kind,
        side: int,
        lr: float,
        schedule: Schedule = "constant",
        width: int | None = None,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        **options: float,
    ) -> None:
        super().__init__()
        self.kind, self.lr, self.schedule = kind, lr, schedule
        self.optimizer, self.options = optimizer, options
        self.width = width or {"mlp": 96, "cnn": 16}[kind]
        first = nn.Linear(side**2, self.width) if kind == "mlp" else nn.Conv2d(1, self.width, 3, padding=1)
        self.stem = nn.Sequential(first, nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(self.layer(), nn.ReLU()) for _ in range(2))
        self.grown = nn.ModuleList()
        self.head = nn.Linear(self.width, 10)
        self.old_path = False
        """Whether grown blocks are left out."""

    def layer(self) -> nn.Linear | nn.Conv2d:
        """A layer with as many outputs as inputs, initialised for ReLU (He)."""
        layer = (
            nn.Linear(self.width, self.width) if self.kind == "mlp" else nn.Conv2d(self.width, self.width, 3, padding=1)
        )
        # after torch's own initialisation, which draws random numbers, too: with HeLinear the results would change
        init_he(layer)
        return layer

    def configure_components(self) -> dict[str, str]:
        return {"stem": "scaffold", "blocks.*": "scaffold", "head": "head"}

    @growth(role="new")
    def add_random(self) -> None:
        """Put a randomly initialised layer before the head."""
        self.grown.append(nn.Sequential(self.layer(), nn.ReLU()))

    @growth(role="new")
    def add_identity(self) -> None:
        """Put a layer before the head that changes nothing at first."""
        self.grown.append(nn.Sequential(identity_like(self.blocks[-1][0]), nn.ReLU()))

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, of shape (n, width)."""
        x = self.stem(images.flatten(1) if self.kind == "mlp" else images)
        if self.kind == "cnn":
            x = nn.functional.max_pool2d(x, 2)
        for number in range(len(self.blocks)):
            x = self.block_output(number, x)
        for block in () if self.old_path else self.grown:
            x = block(x)
        return x if self.kind == "mlp" else x.mean((2, 3))

    def block_output(self, number: int, x: Tensor) -> Tensor:
        """What one of the blocks of the scaffold makes of its input."""
        return self.blocks[number](x)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters(), lr=self.lr, **self.options)
        if self.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class SmallNet(Net):
    """The same with 10 channels in the CNN, for experiments with many arms."""

    def __init__(self, kind: Kind, side: int, lr: float) -> None:
        super().__init__(kind, side, lr, width=10 if kind == "cnn" else None)
