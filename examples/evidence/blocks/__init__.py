"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, recommendation, width

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "width": width.BLOCK,
}
"""By name, in the order of the report."""
