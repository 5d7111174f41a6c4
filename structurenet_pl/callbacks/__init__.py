"""What do you drop into a Trainer? One public callback in each file, named as the callback.

Every factor takes ``where=``: roles or name patterns on which it acts; ``where="!head"`` is all but the head. Durations
count in ``unit="epoch"``, ``"step"`` or ``"generation"`` (growth events).

**Your own factor** is a subclass of ``LRFactor`` with one method, ``factor(component, now)``: a
pure function of the component (``name``, ``role``, ``depth``, ``born``) and the moment (``clock``, ``log``,
``components``, ``age(component)``). It is evaluated at every step, once for all components that do not differ in what
it reads of them; a factor that moves with epochs only says ``unit = "epoch"``. Compute what all components share with
``now.once``. A factor that reads gradient norms (``now.norms``) sets ``needs_gradients = True``; a factor whose 0
means a true freeze sets ``freezes = True``.

**The twelve strategies** that the factors come from, and what was chosen where their document contradicts itself:
``structurenet_pl.strategies``.
"""
