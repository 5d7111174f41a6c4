"""How is a fit driven?

The driver and its Lightning hooks, growth at safe moments, checks and warnings, checkpoints, and growable modules.

**Not supported yet**, each with an error or a warning that says so:

- Growth under FSDP1 and DeepSpeed, and under DDP with a communication hook that has a state of its own (PowerSGD,
  post-local SGD), raises; freezing there is by lr 0, with a warning. Under FSDP2 (``ModelParallelStrategy``) both work
  (``structurenet_pl.distributed``); growth inside a tensor-parallel plan raises.
- Growth that changes a tensor's number of dimensions, or puts the tensors of one component in different places,
  raises.
- ``LARSScaler`` with fused optimizers under 16-mixed, and with lazy parameters (``skip_1d=True``), is refused.
- An earlier checkpoint in a copy of a module that has grown, or within a fit, raises: load it into a module that has
  not grown.
- Growth by a part of the module that is trained raises: let a growth method of the outermost module call it.
- Resume from a checkpoint written between the last batch of an epoch and its validation, as
  ``ModelCheckpoint(every_n_train_steps=n)`` does where n divides the epoch: Lightning leaves the end of that epoch
  out. This raises for modules that can grow, and warns for others.
- ``StochasticWeightAveraging`` with a list of ``swa_lrs`` (give one number), and its fresh statistics for batch norms
  if the first batch norm is added during the fit.
- ``BackboneFinetuning`` and ``FinetuningScheduler`` address param groups by position and are refused. Other callbacks
  may add groups during the fit; such a run cannot be resumed.
- After the fit the optimizer keeps pieces and effective lrs, and schedulers refer to it again: do not step them by
  hand before the next fit.
"""
