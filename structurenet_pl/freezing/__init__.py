"""How does a component stop training, and how much work does that save?

Frozen components and their norm layers, optimizer state that moves to files, and counted work.
"""
