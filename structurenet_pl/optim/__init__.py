"""How do optimizer and schedulers follow a split by component, and a growth?

Param groups, optimizer state, and what a scheduler sees. No learning rates.
"""
