"""How does a component stand still, and what does that save?

Frozen components and their norm layers, optimizer state that is kept in files, and counted work.
"""
