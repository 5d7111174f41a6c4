"""What do you drop into a Trainer? One public callback in each file, named as the callback.

Every factor takes ``where=``: roles or name patterns on which it acts. Durations count in ``unit="epoch"``,
``"step"`` or ``"generation"`` (growth events).

**Your own factor** is a subclass of :class:`~structurenet_pl.LRFactor` with one method, ``factor(component, now)``: a
pure function of the component (``name``, ``role``, ``depth``, ``born``) and the moment (``clock``, ``log``,
``components``, ``age(component)``). It is evaluated at every step, once for all components that do not differ in what
it reads of them; a factor that moves with epochs only says ``unit = "epoch"``. Compute what all components share with
``now.once``. A factor that reads gradient norms (``now.norms``) sets ``needs_gradients = True``; a factor whose 0
means a true freeze sets ``freezes = True``.

**Where the seed document contradicts itself.** ``tests/laws/test_seed.py`` reproduces its numbers, a row for each.
Where the document disagrees with itself, this package chose:

| strategy | contradiction | choice |
|---|---|---|
| 1 | meant to preserve early layers, but made fastest | mirrored; ``DepthDecay(slowest="output")`` is as written |
| 3 | "per growth phase" in the comment, epochs in the code | ``AgeDecay(unit="generation")``; ``"epoch"`` is the code |
| 6, 10 | ``lr *= ...`` after each event only shrinks | as written; ``recovery=`` lets a dip fade, ``floor=`` bounds |
| 7 | factor 0 in the first epoch, which learns nothing | counts from 1: ``(age + 1) / length`` |
| 8 | no coefficient, steps 1000 times the paper's | ``trust_coefficient=0.001``; 1.0 is as written |
| 9 | a fixed index, whatever the depth | the index; a negative or fractional one counts from the end or by share |
| 12 | absolute rates, which no scheduler could move | factors that give these rates at a base lr of 1e-3 |
| combined | one epoch for all, so a new part is as old as the rest | the age of each component |
"""
