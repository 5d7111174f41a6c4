"""Frozen components: no gradient, no backward pass, norm layers that stand still."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frozen:
    """What is frozen now.

    Args:
        components: Names of the components.
        parameters: Share of the module's parameters that stand in them.
        work: Share of the multiply-adds of a training step that is saved, None where it has not been counted.
    """

    components: frozenset[str] = frozenset()
    parameters: float = 0.0
    work: float | None = None
