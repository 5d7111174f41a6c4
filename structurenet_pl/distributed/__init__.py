"""What do several processes tell each other?

DDP around a module that has changed, and the proof that all ranks did the same.
"""
