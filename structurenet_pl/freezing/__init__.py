"""How does a component stand still, and what does that save?

A factor of 0 by a callback that freezes (``ProgressiveFreeze``) is a true freeze: no gradient,
no share in the gradient norm that clipping uses, no backward pass where no earlier layer trains, and norm layers with
running statistics in eval mode whoever calls ``train()`` (``norm="train"`` lets them adapt). With
``release_state=True`` the optimizer state of frozen parameters waits in a temporary file.

Phase and depth alone decide what is frozen, so the freeze is right after growth, on resume and in the next fit. A
later phase thaws a component, which goes on as if its state had never been away. Parameters that you froze yourself
stay frozen; after the fit nothing else is frozen. DDP is wrapped anew at each change; FSDP2 needs no such thing.
``explain`` shows the frozen share of the parameters and of the work of a step,
``preview`` what freezing will save in a whole run.

Phases by a metric are a factor of your own: ``examples/freeze_on_plateau.py`` freezes one block more whenever the
validation loss stops improving. On scikit-learn's digits that saved 14 to 18 % of the work of a run, with a test
accuracy of 0.992, 0.992 and 0.983 against 0.994, 0.992 and 0.986 without (seeds 0 to 2).
``python -m examples.benchmarks`` measures step time, and ``python -m examples.benchmarks.memory`` memory: with half of
the blocks or more frozen, 94 to 100 % of the saving that leaving them out of autograd and optimizer altogether would
give, for a CNN, an MLP and a transformer.
"""
