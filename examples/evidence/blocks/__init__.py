"""The experiments, one in each file."""

from examples.evidence.blocks import compositions, how_much, recommendation, when, width

BLOCKS = {
    "compositions": compositions.BLOCK,
    "recommendation": recommendation.BLOCK,
    "width": width.BLOCK,
    "when": when.BLOCK,
    "how_much": how_much.BLOCK,
}
"""By name, in the order of the report."""
