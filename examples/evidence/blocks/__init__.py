"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, recommendation, retention, scale

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "retention": retention.BLOCK,
    "scale": scale.BLOCK,
}
"""By name, in the order of the report."""
