"""Fine-tuning on few labels: what a pretrained network still knows of its source, at the same result on the target."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache

import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn

from examples.evidence.data import Data, Part, split
from examples.evidence.experiment import Arm, Block, Claim, Trial
from examples.evidence.nets import Kind, Net
from examples.evidence.training import accuracy, fit
from structurenet_pl import Components, DepthDecay, ProgressiveFreeze, RoleLR

EPOCHS, LABELS, BATCH = 20, 100, 20
LRS = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
FRONTIER = (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
UNIFORMS = {f"uniform {lr:g}": Arm((lr,)) for lr in FRONTIER}

BACKBONE = -2
"""All but the last two depths, which are adapter and head."""

STRATEGIES: Mapping[str, Callable[[], list[Callback]]] = {
    **dict.fromkeys(["uniform", *UNIFORMS], list),
    "1 mirrored": lambda: [DepthDecay()],
    "1 as written": lambda: [DepthDecay(slowest="output")],
    "2": lambda: [RoleLR({"pretrained": 0.1, "adapter": 0.5, "new": 0.5})],
    "4": lambda: [
        DepthDecay(slowest="output", where="pretrained"),
        RoleLR({"pretrained": 0.1, "adapter": 0.5, "new": 1.0}),
    ],
    "5": lambda: [RoleLR({"pretrained": 0.01, "adapter": 0.5, "new": 1.0})],
    "9": lambda: [
        ProgressiveFreeze([("warm-up", 0, 1, 1, 1), ("refinement", 5, 0.01, 0.1, 2), ("final", 15, 0, 0.1, -1)])
    ],
    "frozen": lambda: [ProgressiveFreeze([("all", 0, 0, 1, BACKBONE)])],
    "frozen, then .1": lambda: [ProgressiveFreeze([("frozen", 0, 0, 1, BACKBONE), ("thawed", 5, 0.1, 1, BACKBONE)])],
}


def tasks(setting: str, seed: int) -> tuple[Data, Data]:
    """The source and the target; of the target 100 labels for training.

    ``classes`` are the digits 0 to 4, then 5 to 9; ``turned`` are all digits upright, then turned by a quarter.
    """
    name, _, task = setting.split()
    data = split(name, seed)
    if task == "classes":
        source, target = (Data(*(_classes(part, low) for part in data)) for low in (0, 5))
    else:
        source, target = data, Data(*(Part(part.images.rot90(dims=(2, 3)), part.labels) for part in data))
    few = torch.randperm(len(target.train.labels), generator=torch.Generator().manual_seed(seed))[:LABELS]
    return source, target._replace(train=Part(*(column[few] for column in target.train)))


def _classes(part: Part, low: int) -> Part:
    chosen = (part.labels >= low) & (part.labels < low + 5)
    return Part(part.images[chosen], part.labels[chosen])


@cache
def pretrained(setting: str, seed: int) -> Net:
    """The network that all arms start from."""
    kind: Kind = setting.split()[1]
    source, _ = tasks(setting, seed)
    seed_everything(seed, verbose=False)
    net = Net(kind, source.side, 2e-3 if kind == "mlp" else 8e-3, "cosine")
    fit(net, source.train, 20)
    return net


def train(trial: Trial) -> Mapping[str, float]:
    """Add an adapter and a new head to a pretrained network, and train all of it on the target."""
    source, target = tasks(trial.setting, trial.seed)
    net = deepcopy(pretrained(trial.setting, trial.seed))
    seed_everything(trial.seed, verbose=False)  # the same for all, whether or not pretraining has just run
    before, old_head = accuracy(net, source.test), net.head
    net.lr, net.schedule, net.head = trial.lr, "constant", nn.Linear(net.width, 10)
    net.add_identity()
    roles = {"stem": "pretrained", "blocks.*": "pretrained", "grown.*": "adapter", "head": "new"}
    strategy = STRATEGIES[trial.arm.removesuffix(", lr of frozen")]
    fit(net, target.train, EPOCHS, [Components(roles), *strategy()], BATCH)
    found = {"val": accuracy(net, target.val), "target": accuracy(net, target.test)}
    net.old_path, net.head = True, old_head
    return found | {"source": accuracy(net, source.test), "before": before}


def _keeps_more(arm: str) -> Claim:
    text = f"{arm} keeps more than the uniform rate of equal target accuracy"
    return Claim(text, "source", arm, above=0.0, matched_on=("target", tuple(UNIFORMS)))


BLOCK = Block(
    question="A pretrained network gets an adapter and a new head, and is fine-tuned on 100 labels of a target with a "
    "constant rate. What is left of the source, read through the old path and the old head? All run at the base lr "
    "that is best for a uniform rate on the target, or at the one that is best with a frozen backbone.",
    train=train,
    settings=("digits mlp classes", "digits cnn turned", "mnist mlp turned"),
    arms={"uniform": Arm(LRS), "frozen": Arm(LRS)}
    | {name: Arm(lr_of="uniform") for name in ("1 mirrored", "1 as written", "2", "4", "5", "9")}
    | {name: Arm(lr_of="frozen") for name in ("frozen, then .1", "5, lr of frozen", "1 mirrored, lr of frozen")}
    | UNIFORMS,
    claims=(
        Claim("1 mirrored keeps .05 more than 1 as written", "source", "1 mirrored", "1 as written", above=0.05),
        _keeps_more("1 mirrored"),
        _keeps_more("2"),
        _keeps_more("4"),
        _keeps_more("5"),
        _keeps_more("9"),
        Claim("5 beats a frozen backbone on the target", "target", "5, lr of frozen", "frozen", above=0.0),
        Claim(
            "1 mirrored beats freezing, then thawing at .1, on the target",
            "target",
            "1 mirrored, lr of frozen",
            "frozen, then .1",
            above=0.0,
        ),
    ),
    measures={
        "target": "test accuracy on the target",
        "source": "test accuracy on the source, after fine-tuning",
        "before": "test accuracy on the source, before it",
    },
    axes=("target", "source"),
)
