"""How fast the package is, measured on your machine: one row for each goal, one Markdown table.

    python -m examples.benchmarks                          # all rows, 5 minutes on two idle cores
    python -m examples.benchmarks --rows add,widen         # some rows
    python -m examples.benchmarks --plot curves.png        # the curves over groups, components, events or tensors
    python -m examples.benchmarks --quick                  # the smallest sizes: checks that all rows run
    python -m examples.benchmarks.memory                   # memory that freezing saves
    python -m examples.benchmarks.many_ranks               # growth on 1,000 ranks under FSDP2, simulated

Each side of a row is timed in the same process, on one thread, in turns with the other sides, so that a busy machine
slows all of them alike. Times are CPU times; a figure is the median of the ratios of all rounds. ``harness.py`` says
how a figure is made, each other file holds a family of rows, and its functions say what is on which side. Peers are
measured where they are installed: ``pytorch_warmup`` and ``pytorch_optimizer``.

What 10,000 components on 1,000 ranks would pay
-----------------------------------------------

Computed from rows, and from sizes of checkpoints and reports, measured on 2 idle cores of an AMD EPYC on 2026-11-29
(CPU time). A component is a layer with two tensors, the optimizer is AdamW, the user has one param group.

*Per step*, on each rank, without communication: 1 ms with all factors at rest, because lrs are compared three times, at
0.03 µs per group (``update-still``: 27 µs at 1,000), and up to three times that where other work has cleared the
caches; 1.8 ms more if one factor moves (``update-moving``: 0.18 µs per group, once). Torch's ``zero_grad`` and the step
itself loop over 10,000 groups, too. Where each component has an event of its own, ``GrowthResponder(recovery=...,
unit="step")`` would pay 0.5 s per step, and hold 400 MB of dips: its evaluation is quadratic (``evaluation``: 4 ms at
500, 34 ms at 2,000; 9 ns for each pair). In epochs it pays that once an epoch.

*Per growth*, on one process: 0.6 s, linear in components (``bookkeeping``: 56 ms at 1,000), about half of a step of the
same network. DDP is wrapped anew in 0.3 s without communication (``ddp``: 5.5 ms at 400 tensors). Ranks compare what
they did by digests of 32 bytes, so 0.1 MB arrive at each of the 1,000 ranks, and find newborn tensors that differ by
one reduction of 16 bytes for each tensor, 0.3 MB. Only where ranks disagree do they gather whole reports, 4 MB from
each rank, and raise.

*At the start of a fit*: 2.2 s, measured at 10,000, and linear (``start``: 0.14 s at 1,000). Counting the weights that
are not 0, for ``DensityScaler``, adds 0.15 s for 300 million (``start-large``): twice what it takes to read them.

*To look at it*: above 100 components ``StrataMonitor`` logs parts of the network, so TensorBoard gets as much as from a
small one: some 30 ms for each logged row, 11 ms for each step that is not logged (``monitor``, ``monitor-only``: 2.8 ms
and 1.1 ms at 1,000). ``explain`` would print 10,000 lines in 0.4 s (``explain``: 44 ms at 1,000).

*In the checkpoint*: 0.5 MB for the layout of the groups (48 bytes per component) and 2.9 MB for a log of 10,000 events
(287 bytes per event). Loading that log repeats each event on a network that grows: 0.4 s for 500 events (``log``).
What remains quadratic is one walk of the network for each event, 3 µs per component: 3 minutes for 10,000, on each
rank.

*What breaks first*: nothing fails for memory, because no rank holds the reports of all others where ranks agree. The
replay of a long log takes longest, then the recovery of ``GrowthResponder`` in steps, then the start. The step itself
does not break.
"""
