r"""How fast does each component learn?

The effective lr is always computed from the base lr, never from the previous effective lr:

.. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

**An lr that you write by hand** is absolute and becomes the base. If you write it to all pieces of your group, or to
the group itself, it becomes the base lr of the group, and a scheduler goes on from there, as in plain torch. If you
write it to single pieces, it is their base lr until the lr of their group changes. A written value that equals the
effective lr counts as no write. A scheduler that is made in the middle of a fit takes the effective lr for its base
until its first step (with lrs in tensors for good): make it in ``configure_optimizers``.

**Rates within one tensor.** A component that was widened has cohorts (see ``structure``). Its param group has the lr
of the fastest cohort, and the updates of slower cohorts are scaled after each step, by the share :math:`s` of their
product in the largest one: :math:`w \leftarrow w_{before} + s \cdot (w_{after} - w_{before})`. For optimizers that
compute each entry by itself this equals parameters with lrs of their own, to rounding; for optimizers that use a norm
over the tensor it is the definition. An optimizer that keeps a copy of the weights in its state is refused. A component
is frozen only if all of its cohorts have factor 0. A single cohort at 0 stands still, but its optimizer state goes on,
unlike that of a frozen component. Nothing is copied or scaled while all cohorts of a component have the same rate.

From the driver to the optimizer, one lr takes this way:

1. ``factors`` evaluates each factor for all components (``evaluation``) at a ``moment``, which may give norms
   (``norms``) and densities (``connection_density``), too.
2. ``lr_table`` collects lrs that schedulers and users have written (``foreign_writes``) as ``base_lrs``.
3. ``lr_table`` reads the factors into the ``factor_matrix``. It has a row for each piece: a param group with tensors of
   one component, split from one of the user's groups.
4. ``lr_table`` writes ``piece["lr"] = base lr * product of factors``.

In a step in which nothing has changed, the table compares the lrs of all groups with those that it wrote last, once at
the start of the batch and once before and after the update, and other settings (such as momentum) once, before it.

``lr_tables`` holds the tables of all optimizers, and has them grow (``table_growth``) and save (``state_dict_hooks``).
"""
