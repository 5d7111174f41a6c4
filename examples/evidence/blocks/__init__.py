"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, recommendation

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
}
"""By name, in the order of the report."""
