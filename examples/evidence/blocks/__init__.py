"""The experiments, one in each file."""

from examples.evidence.blocks import (
    compositions,
    constant_lr,
    continual,
    freezing,
    how_much,
    recommendation,
    retention,
    scale,
    shock,
    sparse,
    stability,
    when,
    width,
)

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "constant_lr": constant_lr.BLOCK,
    "shock": shock.BLOCK,
    "stability": stability.BLOCK,
    "retention": retention.BLOCK,
    "continual": continual.BLOCK,
    "scale": scale.BLOCK,
    "sparse": sparse.BLOCK,
    "width": width.BLOCK,
    "when": when.BLOCK,
    "how_much": how_much.BLOCK,
    "freezing": freezing.BLOCK,
}
"""By name, in the order of the report."""
