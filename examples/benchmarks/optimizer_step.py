"""Rows: the optimizer step on groups that are split by component, and with LARS."""

from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from examples.benchmarks.harness import Row, Samples, alternate
from examples.benchmarks.nets import transformer
from examples.benchmarks.turns import Fit, in_fit
from structurenet_pl import LARSScaler
from structurenet_pl.engine.driver import Driver

SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}


class Tensors(LightningModule):
    """Parameters that all get gradients, without a forward pass."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return sum(tensor.square().sum() for tensor in self.parameters())

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), fused=True, **SGD)


def lars_peers(tensors: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    try:
        from pytorch_optimizer import LARS
    except ImportError:
        return
    yield "pytorch_optimizer", LARS(tensors, **SGD).step


def lars(tensors: int, rounds: int, mode: str) -> Samples:
    """A step of SGD with LARSScaler and without, fused."""

    def measure(trainer: Trainer) -> Samples:
        module, driver, optimizer = trainer.lightning_module, Driver.of(trainer), trainer.optimizers[0]
        parameters = list(module.parameters())

        def scaled_step() -> None:
            driver.refresh(trainer, with_gradients=optimizer)
            driver.before_step(trainer, module, optimizer)
            optimizer.step()

        plain = torch.optim.SGD(parameters, fused=True, **SGD)
        sides = {"ours": scaled_step, "reference": plain.step, **dict(lars_peers(parameters))}
        return alternate(sides, rounds)

    fit = Fit(Tensors(tensors // 2, 256), [LARSScaler(mode=mode)])
    return in_fit(fit, "on_before_optimizer_step", measure)


def split(blocks: int, rounds: int, settings: dict[str, bool]) -> Samples:
    """A step of AdamW with one group for each block of a transformer, with one group, and with one for each tensor."""
    parameters = list(transformer(192, blocks).children())
    tensors = [tensor for part in parameters for tensor in part.parameters()]
    for tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    by_block = [{"params": list(part.parameters())} for part in parameters if list(part.parameters())]
    groups = {"ours": by_block, "reference": tensors, "a group for each tensor": [{"params": [t]} for t in tensors]}
    return alternate(
        {name: torch.optim.AdamW(of_side, lr=1e-5, **settings).step for name, of_side in groups.items()}, rounds, 3
    )


ROWS = [
    *(
        Row(
            f"split-{kind}",
            f"AdamW ({kind}) on groups split by block, over one group",
            "blocks of a transformer",
            {4: 1.1, 12: 1.1, 24: 1.1},
            lambda size, rounds, kind=kind: split(size, rounds, {kind: True}),
        )
        for kind in ("fused", "foreach")
    ),
    *(
        Row(
            f"lars-{mode}",
            f'SGD with LARSScaler(mode="{mode}") over SGD, fused, with momentum',
            "tensors",
            {50: goal, 160: goal, 1000: goal},
            lambda size, rounds, mode=mode: lars(size, rounds, mode),
        )
        for mode, goal in (("grad", 3), ("lr", 3.5))
    ),
]
