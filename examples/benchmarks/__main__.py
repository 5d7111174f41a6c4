"""Measure the rows, and print them as a Markdown table."""

import argparse
import logging
import os
import warnings

import torch
from lightning.pytorch import seed_everything

from examples.benchmarks import (
    cohorts,
    freezing,
    growing,
    looking,
    optimizer_step,
    starting,
    table_update,
    trainer_step,
)
from examples.benchmarks.harness import HEADER, Figure, circumstances

FAMILIES = (table_update, trainer_step, optimizer_step, growing, looking, starting, freezing, cohorts)
ROWS = {row.name: row for family in FAMILIES for row in family.ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.benchmarks", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help="names, separated by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, two rounds: checks that all rows run")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures over size into a PNG")
    args = parser.parse_args()
    if unknown := [name for name in args.rows.split(",") if name not in ROWS]:
        parser.error(f"no such rows: {', '.join(unknown)}. There are: {', '.join(ROWS)}")
    if args.quick and args.plot:
        parser.error("a quick check measures one size of each row, and so has no curves to plot")
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "structurenet_pl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = "1"  # without it, Lightning's DDP sets a number of threads of its own
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    print(f"{circumstances()}\n\n{HEADER}", flush=True)
    found: dict[str, list[Figure]] = {}
    for name in args.rows.split(","):
        for figure in ROWS[name].figures(args.quick):
            print(ROWS[name].line(figure), flush=True)
            found.setdefault(name, []).append(figure)
    if args.plot:
        from examples.benchmarks.curves import draw

        draw({name: ROWS[name] for name in found}, found, args.plot)


if __name__ == "__main__":
    main()
