"""What does a user see of the learning rates?

Rows in loggers, printed tables, the record of a run and its pictures, previews, and TensorBoard.

**Rows.** :class:`~structurenet_pl.StrataMonitor` writes to every logger of the Trainer: at the first step, every
``log_every_n_steps`` of the Trainer (50 by default, which is coarse in a short run), and after each growth, freeze
and thaw. Beside the logs it saves ``strata.pt``, the learning rates at every step. Figures are drawn from this file,
so they are exact whatever was logged. A history longer than 32 MB (1 MB in a checkpoint) is thinned from its older
end, and the figure says from which step on it is exact. Factors that depend on gradients move at every step: figures
show them as logged.

**Time.** Epochs and steps are counted from 0, as by Lightning's progress bar, ``trainer.current_epoch`` and
``trainer.global_step``: 'epoch 7' is the one that the bar calls 'Epoch 7', the eighth. All texts name the first step
that a change concerns: what grows after the last batch of epoch 7 counts 'from epoch 8, step 136 on', is born in
epoch 8, and is an epoch old in epoch 9. ``event.clock`` holds the same two numbers, ``print(event.clock)`` the words.

**TensorBoard.** ``tensorboard --logdir logs --samples_per_plugin scalars=5000,images=200,text=200``. Without the flag
TensorBoard keeps a random 1000 points of each curve, in which short steps get lost, and 10 pictures and tables.

- *Images*, ``strata/heat_map``: a row for each component, the oldest at the bottom. Bright rows learn fast, dark rows
  slowly; hatched rows are frozen, red rows have lr 0, white rows are not born yet; dashed lines mark growth. What event
  3 added to ``body.0`` by widening is the row ``body.0@3`` above it, if its lr differs; before that, one row stands for
  both.
- *Custom scalars*: all learning rates in one chart, and their minimum, mean and maximum in another. The page opens
  with a smoothing of 0.6: set it to 0. Switch off 'Ignore outliers in chart scaling', which cuts off peaks. The
  button with the bars makes the axis logarithmic; an lr of 0 is invisible there. All curves of a run have one colour:
  'Matches' tells the markers.
- *Text*, ``strata/growth``: for each growth event what was added and where, the number of parameters, and the
  callback that asked; for widening also by how many entries the network grew.

**Preview.** :func:`~structurenet_pl.preview` gives the learning rates of a run to the last bit before the run, except
for factors and triggers that depend on training (``LARSScaler``, ``DensityScaler``, ``GrowOnPlateau``), which a
warning names.
"""
