"""Compare the learning rates of this package with the twelve strategies of the seed document and its combined strategy.

Each strategy is a list of callbacks. For each one, a small network is trained on scikit-learn's digits and may grow
during training. The table then shows the learning rate of each component next to the number in the seed document.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from quiet import quiet
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from structurenet_pl import (
    AgeDecay,
    Components,
    DensityScaler,
    DepthDecay,
    GrowableModule,
    GrowEvery,
    GrowthResponder,
    LARSScaler,
    ProgressiveFreeze,
    RoleLR,
    SedimentaryDecay,
    Warmup,
    explain,
    growth,
    recommended,
)

BASE_LR = 1e-3


class SparseLinear(nn.Linear):
    """A linear layer in which only a fixed, random share of the connections exists."""

    def __init__(self, in_features: int, out_features: int, density: float) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", (torch.rand_like(self.weight) < density).float())

    def get_density(self) -> float:
        return self.mask.mean().item()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class Net(GrowableModule):
    """Four scaffold layers and a head, which can get patches and new layers."""

    def __init__(self) -> None:
        super().__init__()
        densities = [0.01, 0.05, 0.2, 0.05]
        self.scaffold = nn.ModuleList(SparseLinear(64, 64, density) for density in densities)
        self.patches = nn.ModuleList()
        self.new = nn.ModuleList()
        self.head = nn.Linear(64, 10)
        self.norm_ratios: dict[str, float] = {}

    def configure_components(self) -> dict[str, str]:
        return {"scaffold.*": "scaffold", "head": "head"}

    @growth(role="patch", depth="at")
    def add_patch(self, at: int) -> None:
        self.patches.append(nn.Linear(64, 64))

    @growth(role="new")
    def add_new(self) -> None:
        self.new.append(nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.scaffold, *self.patches, *self.new):
            x = x + layer(x).relu()
        return self.head(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.norm_ratios = {
            name.removesuffix(".weight"): (weight.norm() / (weight.grad.norm() + 1e-8)).item()
            for name, weight in self.named_parameters()
            if weight.ndim > 1
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=BASE_LR)


@dataclass(frozen=True)
class Section:
    """One row group of the table: the callbacks, the time of training, and the lrs that the seed document gives."""

    title: str
    callbacks: Sequence[Callback]
    seed_lrs: Mapping[str, float] | Callable[[Net], Mapping[str, float]]  # by component name
    epochs: int = 1


def grow(method: str, epoch: int, **arguments: int) -> GrowEvery:
    """Return a trigger that grows the network once, when ``epoch`` epochs are over."""
    return GrowEvery(method, every=epoch, limit=1, arguments=arguments)


SCAFFOLD = [f"scaffold.{index}" for index in range(4)]
AFTER_GROWTH = [grow("add_patch", 1, at=0), grow("add_new", 2)]
PRETRAINED = Components({"scaffold.3": "adapter", "scaffold": "pretrained", "head": "new"})
TABLE = {"scaffold": 1e-4, "patch": 5e-4, "neck": 1e-3, "new": 1e-3}

SECTIONS = [
    Section(
        "1 cascade, as written",
        [DepthDecay(gamma=0.1, slowest="output", where="scaffold")],
        {name: BASE_LR * 0.1 ** (index / 4) for index, name in enumerate(SCAFFOLD)},
    ),
    Section(
        "1 cascade, as meant",
        [DepthDecay(gamma=0.1, where="scaffold")],
        {name: BASE_LR * 0.1 ** ((3 - index) / 4) for index, name in enumerate(SCAFFOLD)},
    ),
    Section("2 dual", [RoleLR(), *AFTER_GROWTH], {"scaffold.0": 1e-4, "patches.0": 5e-4}, 3),
    Section("3 age", [AgeDecay(), *AFTER_GROWTH], {"scaffold.0": 1e-5, "patches.0": 1e-4, "new.0": 1e-3}, 3),
    Section(
        "4 by component",
        [RoleLR(TABLE, base_lr=BASE_LR), *AFTER_GROWTH],
        {"scaffold.0": 1e-4, "patches.0": 5e-4, "new.0": 1e-3},
        3,
    ),
    Section("5 pretrained", [PRETRAINED, RoleLR()], {"scaffold.0": 1e-5, "scaffold.3": 5e-4, "head": 1e-3}),
    Section(
        "6 after growth",
        [GrowthResponder(roles={"scaffold": 0.5, "new": 1.0}), grow("add_new", 1)],
        {"scaffold.0": 5e-4, "new.0": 1e-3},
        2,
    ),
    Section("7 warm-up, age 0", [Warmup(5), grow("add_new", 1)], {"new.0": BASE_LR * 1 / 5, "head": 1e-3}, 1),
    Section("7 warm-up, age 2", [Warmup(5), grow("add_new", 1)], {"new.0": BASE_LR * 3 / 5, "head": 1e-3}, 3),
    Section("7 warm-up, age 4", [Warmup(5), grow("add_new", 1)], {"new.0": BASE_LR, "head": 1e-3}, 5),
    Section(
        "8 LARS, no coefficient",
        [LARSScaler(trust_coefficient=1.0)],
        lambda net: {name: BASE_LR * ratio for name, ratio in net.norm_ratios.items()},
    ),
    Section("9 freezing, warm-up", [ProgressiveFreeze()], dict.fromkeys([*SCAFFOLD, "head"], 1e-3), 5),
    Section(
        "9 freezing, refinement",
        [ProgressiveFreeze()],
        dict(zip([*SCAFFOLD, "head"], [1e-5, 1e-5, 1e-4, 1e-4, 1e-4], strict=True)),
        10,
    ),
    Section("9 freezing, final", [ProgressiveFreeze()], {**dict.fromkeys(SCAFFOLD, 0.0), "head": 1e-4}, 30),
    Section(
        "10 by distance",
        [GrowthResponder(), grow("add_patch", 1, at=0)],
        {"patches.0": 9e-4, "scaffold.0": 7e-4, "scaffold.1": 7e-4, "scaffold.2": 5e-4, "head": 5e-4},
        2,
    ),
    Section("11 density", [DensityScaler()], {"scaffold.0": 2e-3, "scaffold.1": 1e-3, "scaffold.2": 5e-4}),
    Section(
        "12 sedimentary",
        [SedimentaryDecay(), grow("add_patch", 10, at=0), grow("add_new", 70)],
        {"scaffold.0": 1e-5, "patches.0": 5e-4, "new.0": 1e-4},
        100,
    ),
    Section(
        "combined, as written",
        [*recommended("seed"), grow("add_patch", 10, at=0), grow("add_new", 38)],
        {
            **{name: BASE_LR * 0.1 ** (40 // 20) * 0.1 ** (index / 4) for index, name in enumerate(SCAFFOLD)},
            "patches.0": BASE_LR * 0.5,
            "new.0": BASE_LR * 3 / 5,
            "head": BASE_LR,
        },
        40,
    ),
]


def learning_rates(section: Section, data: DataLoader) -> list[tuple[str, str, float, float]]:
    """Train; return name, role, the seed's lr and the effective lr of each component."""
    seed_everything(0, verbose=False)
    net = Net()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=section.epochs,
        limit_train_batches=2,
        accelerator="cpu",
        enable_model_summary=False,
        callbacks=list(section.callbacks),
        **options,
    )
    trainer.fit(net, data)
    seed_lrs = section.seed_lrs(net) if callable(section.seed_lrs) else section.seed_lrs
    return [
        (entry.component.name, entry.component.role or "", seed_lrs[entry.component.name], entry.lr)
        for entry in explain(trainer, console=Console(quiet=True))
        if entry.leads and entry.component.name in seed_lrs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()

    quiet()
    warnings.filterwarnings("ignore", message=".*has changed no learning rate.*")  # some runs end before a phase starts
    torch.set_num_threads(1)

    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    data = DataLoader(digits, batch_size=64, shuffle=True)

    table = Table(
        *("strategy", "epochs", "component", "role", "seed's lr", "our lr"),
        title="The twelve strategies: learning rates of the seed document, and ours",
        box=SIMPLE,
        padding=0,
    )
    table.columns[0].no_wrap = True
    wrong = 0
    stderr = Console(stderr=True)
    for section in track(SECTIONS, "Training", console=stderr, transient=True, disable=not stderr.is_terminal):
        for row, (component, role, seed_lr, lr) in enumerate(learning_rates(section, data)):
            equal = abs(lr - seed_lr) <= 1e-6 * seed_lr  # the norms of strategy 8 are float32
            wrong += not equal
            first = (section.title, str(section.epochs)) if row == 0 else ("", "")
            table.add_row(*first, component, role, f"{seed_lr:.3g}", f"{lr:.3g}" + ("" if equal else " differs"))
        table.add_section()
    Console().print(table)
    if wrong:
        sys.exit(f"{wrong} learning rates differ from those of the seed document")
    print("All learning rates equal those of the document in structurenet_pl/strategies.py.")


if __name__ == "__main__":
    main()
