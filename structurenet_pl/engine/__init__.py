"""How is a fit driven?

The driver and its Lightning hooks, growth at safe moments, checks and warnings, checkpoints, and growable modules.
"""
