"""Rows: what the callbacks add to a step of a Trainer."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule

from examples.benchmarks.harness import Row, Samples, by_round, less
from examples.benchmarks.nets import (
    Classifier,
    GrowableStill,
    Naive,
    Still,
    Writer,
    empty_callbacks,
    factors,
    resnet,
    transformer,
)
from examples.benchmarks.turns import Fit, take_turns

STEPS, STRETCH = 80, 20  # steps in each round, and in each turn


def steps_of(sides: dict[str, tuple[LightningModule, Sequence[Callback]]], rounds: int) -> Samples:
    """Steps of networks with callbacks."""
    times = take_turns({name: Fit(net, callbacks) for name, (net, callbacks) in sides.items()}, rounds * STEPS, STRETCH)
    # what is added is far less than what other programs on the machine add to some steps: the fast steps show it
    return {name: by_round(of_side, rounds, share=0.1) for name, of_side in times.items()}


def added(layers: int, rounds: int, moving: bool = False, cosine: bool = False) -> Samples:
    """Steps with eight factors, with the least that eight callbacks can do, with a naive callback, and with none."""
    sides = {
        "floor": (Still(layers, groups=cosine), []),
        # without a schedule the user has one group, which the package splits; a schedule has equal work on both sides
        "ours": (Still(layers, groups=cosine, cosine=cosine), factors(moving)),
        "reference": (Still(layers, groups=True, cosine=cosine), [*empty_callbacks(7), Writer()]),
        "naive callback": (Still(layers, groups=True, cosine=cosine), [Naive()]),
    }
    return steps_of(sides, rounds)


def growable(layers: int, rounds: int) -> Samples:
    return steps_of({"floor": (Still(layers), []), "ours": (GrowableStill(layers), [])}, rounds)


def share(network: LightningModule, shape: Sequence[int], layers: int, rounds: int, moving: bool) -> Samples:
    """What the factors add to a step that does little else, and the step of a network."""
    sides = {
        "none": (Still(layers), []),
        "empty": (Still(layers), list(empty_callbacks(8))),
        "ours": (Still(layers), factors(moving)),
        "naive callback": (Still(layers, groups=True), [Naive()]),
    }
    times = steps_of(sides, rounds)
    step = by_round(take_turns({"step": Fit(network, shape=shape)}, 3 * rounds)["step"], rounds)

    return {
        "ours": less(times["ours"], times["empty"]),
        "reference": step,
        "all that the callbacks add": less(times["ours"], times["none"]),
        "naive callback": less(times["naive callback"], times["none"]),
    }


def of_resnet(layers: int, rounds: int, moving: bool) -> Samples:
    return share(Classifier(resnet(16)), (8, 3, 32, 32), layers, rounds, moving)


def of_transformer(layers: int, rounds: int, moving: bool) -> Samples:
    return share(Classifier(transformer(96, 4)), (8, 32, 96), layers, rounds, moving)


ADDED = "added to a Trainer step by 8 factors, over 8 callbacks of which one writes ready lrs"
ROWS = [
    Row("step-still", f"{ADDED}: all at rest", "groups", {10: 1.3, 100: 1.3, 1000: 1.3}, added),
    Row(
        "step-moving",
        f"{ADDED}: one moves",
        "groups",
        {10: None, 100: None, 1000: None},
        lambda size, rounds: added(size, rounds, moving=True),
    ),
    Row(
        "step-cosine",
        f"{ADDED}: cosine schedule by step",
        "groups",
        {10: 1.3, 100: 1.3, 1000: 1.3},
        lambda size, rounds: added(size, rounds, cosine=True),
    ),
    Row("growable", "added by a GrowableModule without factors", "layers", {10: 6e-5, 100: 6e-5, 1000: 6e-5}, growable),
    *(
        Row(
            f"share-{network}{'-moving' * moving}",
            f"share of a step of a small {network}, over 8 empty callbacks, {'one moves' if moving else 'all at rest'}",
            "groups",
            {100: goal},
            lambda size, rounds, measure=measure, moving=moving: measure(size, rounds, moving),
        )
        for network, measure, goals in (
            ("resnet", of_resnet, (0.001, 0.002)),
            ("transformer", of_transformer, (0.002, 0.004)),
        )
        for moving, goal in enumerate(goals)
    ),
]
