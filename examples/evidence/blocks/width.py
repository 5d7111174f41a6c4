"""Growing in width step by step: the ladder of Yuan et al., arXiv 2306.12700, on a small CNN and an MLP."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback

from examples.evidence.blocks.widening import MEASURES, RESCALED_PAIRS, WIDTHS, WideningNet, train_and_measure
from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.training import ResetState
from structurenet_pl import AgeDecay, GrowEvery, GrowthResponder

LRS = (0.16, 0.32, 0.64, 1.28, 2.56)
EPOCHS = 16
EQUAL_WORK = 10
"""Epochs of a static network with about as many multiply-adds as 16 epochs of a growing one; ``work`` shows it."""

NET2NET: Mapping[str, Any] = {"scheme": "copy"}
PAIRS: Mapping[str, Any] = {"scheme": "pair"}


def by_stage() -> list[Callback]:
    """Entries of each growth stage have a rate of their own: .7 times that of the next one."""
    return [AgeDecay(0.7)]


def warm_up_all() -> list[Callback]:
    """The rate of everything starts anew at a tenth after each growth, and is back within an epoch or two."""
    return [GrowthResponder(grown=0.1, adjacent=0.1, distant=0.1, recovery=4, unit="step")]


GROWING: Mapping[str, tuple[Mapping[str, Any], Callable[[], list[Callback]]]] = {
    "Net2Net": (NET2NET, list),
    "Net2Net, state reset": (NET2NET, lambda: [ResetState()]),
    "pairs": (PAIRS, list),
    "pairs, rescaled": (RESCALED_PAIRS, list),
    "pairs, lr by stage": (PAIRS, by_stage),
    "both": (RESCALED_PAIRS, by_stage),
    "both, state reset": (RESCALED_PAIRS, lambda: [*by_stage(), ResetState()]),
    "pairs, rescaled, warm-up of all": (RESCALED_PAIRS, warm_up_all),
}
"""Arguments of the growth, and the callbacks."""


def train(trial: Trial) -> Mapping[str, float]:
    """Train one network, by SGD with momentum and cosine as in the paper."""
    name, kind = trial.setting.split()
    data, widths = split(name, trial.seed), WIDTHS[kind]
    epochs = EQUAL_WORK if trial.arm == "static, equal work" else EPOCHS
    callbacks: list[Callback] = []
    if trial.arm in GROWING:
        arguments, others = GROWING[trial.arm]
        callbacks = [GrowEvery("wider", every=2, limit=len(widths) - 1, arguments=arguments), *others()]
    elif trial.arm == "static, first size":
        widths = widths[:1]
    else:
        widths = widths[-1:]
    net = WideningNet(kind, data.side, trial.lr, "cosine", widths, torch.optim.SGD, momentum=0.9)
    measures, _ = train_and_measure(net, name, data, epochs, callbacks)
    return measures


BLOCK = Block(
    question="Networks that double their width twice, in four steps after epochs 2, 4, 6 and 8 of 16. The paper has "
    "the order Net2Net = pairs < rescaled < lr by stage < both = static of the final size (ResNet-20, CIFAR-10: 91.60, "
    "91.62, 92.00, 92.24, 92.53, 92.62). Here lr by stage is `AgeDecay(0.7)` on cohorts, where the paper takes the "
    "ratio of their norms. Does the order come out?",
    train=train,
    settings=("digits mlp", "digits cnn"),
    arms={
        "static": Arm(LRS),
        "static, equal work": Arm(LRS),
        "static, first size": Arm(lr_of="static"),
        "Net2Net": Arm(LRS),
        "Net2Net, state reset": Arm(lr_of="Net2Net"),
        "pairs": Arm(LRS),
        "pairs, rescaled": Arm(LRS),
        "pairs, lr by stage": Arm(LRS),
        "both": Arm(LRS),
        "both, state reset": Arm(lr_of="both"),
        "pairs, rescaled, warm-up of all": Arm(lr_of="pairs, rescaled"),
    },
    claims=(
        better("rescaled weights beat Net2Net", "pairs, rescaled", "Net2Net"),
        better("lr by stage beats pairs", "pairs, lr by stage", "pairs"),
        better("lr by stage beats rescaled weights", "pairs, lr by stage", "pairs, rescaled"),
        better("both beat lr by stage alone", "both", "pairs, lr by stage"),
        Claim("both are as good as static", "accuracy", "both", "static", above=-0.005),
        better("both beat static at equal work", "both", "static, equal work"),
        better("carried state beats reset", "both", "both, state reset"),
        better("lr by stage beats a warm-up of all", "both", "pairs, rescaled, warm-up of all"),
    ),
    measures=MEASURES,
)
