"""Run the experiments, then write the report and its figures."""

import argparse
import os
import sys
import time
from pathlib import Path

from examples.evidence.blocks import BLOCKS
from examples.evidence.processes import run_all
from examples.evidence.report import write
from examples.evidence.results import Results

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.evidence", description=__doc__)
    parser.add_argument("--blocks", default=",".join(BLOCKS), help="names, separated by commas (default: all)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: that of each block)")
    parser.add_argument("--first-seed", type=int, default=0, help="for a run with other seeds; give --out, too")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time budget; the same command goes on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of tables, figures and report")
    parser.add_argument("--quick", action="store_true", help="one setting, few lrs, two seeds: checks that all runs")
    args = parser.parse_args()
    if unknown := [name for name in args.blocks.split(",") if name not in BLOCKS]:
        parser.error(f"no such blocks: {', '.join(unknown)}. There are: {', '.join(BLOCKS)}")
    if args.quick and args.out == HERE / "results":
        parser.error("a quick run needs another folder than that of the full results: --out FOLDER")
    if args.first_seed and args.out == HERE / "results":
        parser.error("a run with other seeds needs another folder than that of the first results: --out FOLDER")
    blocks = {name: block.quick() for name, block in BLOCKS.items()} if args.quick else BLOCKS
    blocks = {name: block.with_seeds(args.first_seed, args.seeds or len(block.seeds)) for name, block in blocks.items()}
    asked = {name: blocks[name] for name in args.blocks.split(",")}
    args.out.mkdir(parents=True, exist_ok=True)
    run_all(asked, args.out, args.jobs, time.monotonic() + 60 * args.minutes)
    print(f"Report: {write(blocks, args.out)}")  # on all that has been run, now or before
    if left := sum(len(Results(args.out / f"{name}.csv").missing(block)) for name, block in asked.items()):
        sys.exit(f"At least {left} runs are missing; the same command goes on with them.")


if __name__ == "__main__":
    main()
