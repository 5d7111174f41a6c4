"""How fast does each component learn?

From the driver to the optimizer, one lr takes this way:

1. ``factors`` evaluates each factor for all components (``evaluation``) at a ``moment``, which may give norms
   (``norms``) and densities (``connection_density``), too.
2. ``lr_table`` collects lrs that schedulers and users have written (``foreign_writes``) as ``base_lrs``.
3. ``lr_table`` reads the factors into the ``factor_matrix``. It has a row for each piece: a param group with tensors of
   one component, split from one of the user's groups.
4. ``lr_table`` writes ``piece["lr"] = base lr * product of factors``.

``lr_tables`` holds the tables of all optimizers, and has them grow (``table_growth``) and save (``state_dict_hooks``).
"""
