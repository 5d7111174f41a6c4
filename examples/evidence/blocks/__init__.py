"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, freezing, recommendation, retention, scale, sparse

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "retention": retention.BLOCK,
    "scale": scale.BLOCK,
    "sparse": sparse.BLOCK,
    "freezing": freezing.BLOCK,
}
"""By name, in the order of the report."""
