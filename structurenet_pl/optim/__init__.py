"""How do optimizer and schedulers follow a split by component, and a growth?

Param groups, optimizer state, and what a scheduler sees. No learning rates.

**Param groups.** When a fit starts, each group of the user is split into pieces, one for each component. The
optimizer steps on the pieces. The user's own group dicts stay alive and hold the base lrs; schedulers see these,
through a stand-in for the optimizer, so any scheduler that writes to param groups works, and growth does not touch
it. State dicts hold the user's groups, so a run that started without these callbacks continues with them, and the
reverse. ``optimizer.param_groups`` lists the pieces: address the groups that you made, not positions in that list.

**Optimizers.** Before the fit each optimizer is tried on a small copy. Refused are optimizers that take one group
only (``LBFGS``) or one lr only, that write or lack an lr, or that save groups in a form of their own
(``ZeroRedundancyOptimizer``). A warning names those that ignore their lr (``Rprop``) or compute over whole groups
(``AvaGrad``). A wrapper that steps another optimizer on groups of its own is found at its first step, which raises.

**Optimizer state** is carried over a growth entry by entry. State whose shape is not that of the parameter (SOAP's)
starts anew where the parameter changes its shape, with a warning. An optimizer that cannot start anew, or cannot take
a new parameter (``Muon`` and a bias), refuses the growth.
"""
