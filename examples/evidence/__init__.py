"""What each strategy does on real data, measured fairly.

    python -m examples.evidence                              # all that is missing; hours
    python -m examples.evidence --blocks shock --minutes 30  # one experiment, with a time budget
    python -m examples.evidence --quick --out /tmp/evidence  # under 3 minutes: checks that all runs

A run that was stopped goes on where it was: each finished trial is a row of a CSV file in ``results/``. The report,
``results/report.md``, is written from these files alone.
"""
