"""What does a user see of the learning rates?

Rows in loggers, printed tables, the records of a run and their pictures, previews, and TensorBoard.

**Rows.** ``StrataMonitor`` writes to every logger of the Trainer: at the first step, every ``log_every_n_steps`` of the
Trainer (50 by default, which is coarse in a short run), and after each growth, freeze and thaw. Beside the logs it
saves ``strata.pt``, the learning rates at every step. Figures are drawn from this file, so they are exact whatever was
logged. A history longer than 32 MB (1 MB in a checkpoint) is thinned from its older end, and the figure says from which
step on it is exact. Factors that depend on gradients move at every step: figures show them as logged.

**Was growth worth it?** ``plot_growth`` draws a validation metric against the steps and against the number of
parameters, of one run or of several: ``plot_growth({"grown": trainer, "static": "logs/static"}, "val_accuracy")``. It
needs a StrataMonitor in each run, which keeps what each validation has logged, with step and number of parameters, in
checkpoints and in ``strata.pt``; above 50,000 numbers older validations are thinned. All parameters count, frozen ones,
too; under a strategy that splits tensors over processes, only those of a process.

**Time.** Epochs and steps are counted from 0, as by Lightning's progress bar, ``trainer.current_epoch`` and
``trainer.global_step``: 'epoch 7' is the one that the bar calls 'Epoch 7', the eighth. All texts name the first step
that a change concerns: what grows after the last batch of epoch 7 counts 'from epoch 8, step 136 on', is born in
epoch 8, and is an epoch old in epoch 9. ``event.clock`` holds the same two numbers, ``print(event.clock)`` the words.

**TensorBoard.** ``tensorboard --logdir logs --samples_per_plugin scalars=5000,images=200,text=200``. Without the flag
TensorBoard keeps a random 1000 points of each curve, in which short steps get lost, and 10 pictures and tables. Other
loggers get whole rows; TensorBoard gets a point where a curve moves, four more behind it, and the ends of epochs.

- *Time Series*, the first page, and *Scalars* sort tags by name, capitals first, and open the first two groups. On the
  first page these are the pictures, ``LR``, and Lightning's ``epoch``. Behind ``epoch`` and ``hp_metric`` comes ``lr``,
  then ``newborn`` and ``norms`` (with ``norms=True``), ``strata`` with the factors, and last ``strata.details`` with
  age and base lr.
- *Images*, ``LR/heat_map``: a row for each component, the oldest at the bottom. Bright rows learn fast, dark rows
  slowly; hatched rows are frozen, red rows have lr 0, white rows are not born yet; dashed lines mark growth. What event
  3 added to ``body.0`` by widening is the row ``body.0@3`` above it, if its lr differs; before that, one row stands for
  both. ``LR/curves``: all learning rates in one chart, on a logarithmic axis. For large pictures switch on 'Show actual
  image size'. They are drawn at the end of the fit and at the growth events 1, 2, … 9, 10, 20, … 90, 100, 200 and so
  on; they need matplotlib.
- *Custom scalars*: the learning rates in one chart, and the minimum, mean and maximum of all in another. All curves of
  a run have one colour, and 'Matches' tells the markers, which repeat after five components: with more, take the
  pictures. The page opens with a smoothing of 0.6: set it to 0. Switch off 'Ignore outliers in chart scaling', which
  cuts off peaks. The button with the bars makes the axis logarithmic; an lr of 0 is invisible there. A run has one
  layout, the last, and one of yours stays: if you lay out charts after the start of the fit, add those of
  ``structurenet_pl.monitoring.tensorboard.layout(prefix)``.
- *Text*, ``strata/components``: the components. ``strata/growth``: for each growth event what was added and where, the
  number of parameters, and the callback that asked; for widening also by how many entries the network grew.
  ``strata/newborns``: the verdicts on newborns, with ``norms=True``.
- The monitor writes no hyperparameters: TensorBoard keeps the first that a run logs, so they would hide yours.

**Newborns.** With ``StrataMonitor(norms=True)``, ``newborn/grad/patches.0`` is the root mean square of the gradients
of the weights of ``patches.0`` over that of its neighbours, at all logged steps since its birth, up to ten of them;
``newborn/update/patches.0`` is the same of the updates, which depend on factors and optimizer, too. Near 1 a newborn
learns as its neighbours do, far below 1 it starves. ``body.0@3`` is compared with the older entries of the same
tensors. Steps that are not logged cost nothing.

**Preview.** ``preview`` gives the learning rates of a run to the last bit before the run, except for factors and
triggers that depend on training (``LARSScaler``, ``DensityScaler``, ``GrowOnPlateau``), which a warning names. If a
callback freezes, the preview also says what that will save: 'freezing saves 22% of the multiply-adds of 60 epochs'. For
that it needs ``example_input``, or an ``example_input_array`` of the module; it counts only what ``forward`` runs.
"""
