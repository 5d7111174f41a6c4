"""How do several processes stay equal?

What ranks tell each other, DDP around a module that has changed, and the proof that all ranks grew alike.
"""
