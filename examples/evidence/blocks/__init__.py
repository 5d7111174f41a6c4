"""The experiments, one in each file."""

from examples.evidence.blocks import (
    compositions,
    continual,
    freezing,
    recommendation,
    retention,
    scale,
    shock,
    sparse,
    stability,
)

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "shock": shock.BLOCK,
    "stability": stability.BLOCK,
    "retention": retention.BLOCK,
    "continual": continual.BLOCK,
    "scale": scale.BLOCK,
    "sparse": sparse.BLOCK,
    "freezing": freezing.BLOCK,
}
"""By name, in the order of the report."""
