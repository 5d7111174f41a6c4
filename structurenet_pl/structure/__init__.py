"""What is the network made of, and how did it grow?

This folder finds the components of a module, carries growth methods out, and keeps the growth log. It knows no
optimizer and no Lightning.

**A growth method** is a method of a ``GrowableModule`` marked with
``growth``. It is plain torch code: new, replaced and removed parameters are found by comparing
the module before and after. It may add modules, and it may widen, narrow or remove a layer by giving the module
another ``Parameter`` under the same name or by deleting one. ``came_from`` says which old
entries a new tensor continues, where these are not the first ones; ``@growth(second_moments=...)`` says how Adam's
second moments of new entries start. ``widen``, with new units that are
copies, unread or paired, and ``identity_like`` change the shape and keep the function of the
network.

**Cohorts.** The entries that a growth adds to an existing tensor are a cohort: they have the age of that growth, and
the role that ``@growth(role=...)`` gives. Every factor is asked for a cohort as for a component. So after a widening
``Warmup`` warms up the new units only, and ``RoleLR({"new": 1.0}, ...)`` trains new rows of an embedding at full rate.
An entry is as old as its youngest index: the weight from an old unit to a new one is new. A tensor that is widened by
hand continues its old entries by position, or as ``came_from`` says.

**Decisions by data.** If a growth method computes a size from data, let it return that as a dict of its own arguments
(``return {"width": 12}``). The log stores the decision, so loading a checkpoint does not decide again.

**The growth log** travels in the state dict. A state dict is loaded in two steps: growth methods are called as the
log says, then tensors are loaded. An earlier checkpoint also loads into a module that has grown since
(``trainer.test(ckpt_path="best")``): the module goes back to its founding parts. Those that growth has replaced by
other objects it keeps for that purpose, without gradients; of parameters that were reshaped in place, as by ``widen``,
only the shapes. A growth or a load that raises leaves module, optimizer and log as they were, except for values of
existing tensors that the method changed in place.

**How one growth travels.** ``GrowthMethod.__call__`` (growth_methods) makes a request -> ``Growable.request_growth``
(growable) -> in a fit the growth handler, which waits for a safe moment -> ``one_growth`` (grow), which undoes it after
an error -> ``grow_and_log`` (grow) runs the user's method, ``compare`` (diff) finds what is different, and the event
is logged -> ``Change`` (grow) tells optimizer, learning rates and averaged copies what to do.
"""
