r"""How fast does each component learn?

The moment that factors see, the factors evaluated together, the table of each optimizer, and the one writer of lrs.

The effective lr is always computed from the base lr, never from the previous effective lr:

.. math:: \eta_c(t) = \eta^{base}(t) \cdot \prod_k f_k(c, t)

**An lr that you write by hand** is absolute and becomes the base. If you write it to all pieces of your group, or to
the group itself, it becomes the base lr of the group, and a scheduler goes on from there, as in plain torch. If you
write it to single pieces, it is their base lr until the lr of their group changes. A written value that equals the
effective lr counts as no write. A scheduler that is made in the middle of a fit takes the effective lr for its base
until its first step (with lrs in tensors for good): make it in ``configure_optimizers``.
"""
