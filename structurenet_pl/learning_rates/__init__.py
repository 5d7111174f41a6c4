r"""How fast does each component learn?

The effective lr is always computed from the base lr, never from the previous effective lr:

.. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

**An lr that you write by hand** is absolute and becomes the base. If you write it to all pieces of your group, or to
the group itself, it becomes the base lr of the group, and a scheduler goes on from there, as in plain torch. If you
write it to single pieces, it is their base lr until the lr of their group changes. A written value that equals the
effective lr counts as no write. A scheduler that is made in the middle of a fit takes the effective lr for its base
until its first step (with lrs in tensors for good): make it in ``configure_optimizers``.

From the driver to the optimizer, one lr takes this way:

1. ``factors`` evaluates each factor for all components (``evaluation``) at a ``moment``, which may give norms
   (``norms``) and densities (``connection_density``), too.
2. ``lr_table`` collects lrs that schedulers and users have written (``foreign_writes``) as ``base_lrs``.
3. ``lr_table`` reads the factors into the ``factor_matrix``. It has a row for each piece: a param group with tensors of
   one component, split from one of the user's groups.
4. ``lr_table`` writes ``piece["lr"] = base lr * product of factors``.

``lr_tables`` holds the tables of all optimizers, and has them grow (``table_growth``) and save (``state_dict_hooks``).
"""
