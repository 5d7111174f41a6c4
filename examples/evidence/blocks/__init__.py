"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, continual, recommendation, shock, stability

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "shock": shock.BLOCK,
    "stability": stability.BLOCK,
    "continual": continual.BLOCK,
}
"""By name, in the order of the report."""
