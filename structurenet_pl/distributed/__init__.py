"""What do several processes tell each other?

Under DDP every process must ask for the same growth. A growth is carried out at the end of an epoch or of a validation;
one by ``GrowEvery`` may also happen in the middle of an epoch, because the clock is the same everywhere. New tensors
get the values of rank 0, a growth method that returns a decision is called with that of rank 0, and DDP is wrapped
anew. Ranks compare settings of callbacks at the start of the fit, what was done at each growth, and learning rates at
the start and end of each epoch. Where they differ, every rank raises an error that names the difference, and no rank
has grown. If a process is gone, the others name the moment at which they missed it.

Without growth no message is sent in a training step.
"""
