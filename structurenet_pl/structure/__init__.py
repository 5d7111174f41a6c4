"""What the network is made of, and how it grew: no optimizer, no Lightning.

How one growth travels: ``GrowthMethod.__call__`` (growth_methods) makes a request -> ``Growable.request_growth``
(growable) -> in a fit the growth handler, which waits for a safe moment -> ``one_growth`` (grow), which undoes it after
an error -> ``carry_out`` (grow) runs the user's method -> ``compare`` (diff) finds what is different -> the event is
logged, and ``Change`` (grow) tells optimizer, learning rates and averaged copies what to do.
"""
