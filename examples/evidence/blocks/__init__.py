"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, recommendation, shock

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "shock": shock.BLOCK,
}
"""By name, in the order of the report."""
