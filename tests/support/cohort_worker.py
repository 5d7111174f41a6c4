"""Resumes a run with slow cohorts in a fresh process, for test_cohorts: ``cohort_worker.py checkpoint folder``."""

import sys
from pathlib import Path

import torch

from cohort_nets import Growing, outcome, slow_cohorts
from helpers import fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.rand(17)
    module = Growing()
    trainer = fit(module, slow_cohorts(), 6, sys.argv[1])
    torch.save(outcome(module, trainer), Path(sys.argv[2]) / "resumed.pt")
