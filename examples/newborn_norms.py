"""Look whether what growth adds to a network integrates: norms of gradients and updates by component.

The small convolutional network of `growing_cnn.py` grows in width and then in depth while `StrataMonitor(norms=True)`
measures it. The script prints the verdict on each newborn, and draws the gradient and the update of each component.
"""

import argparse
import csv
from pathlib import Path

import torch
from growing_cnn import GrowingCNN, loaders
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from quiet import quiet

from structurenet_pl import GrowEvery, StrataMonitor


def curves(file: Path, kind: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values of each component from the log of a run."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    tags = [tag for tag in rows[0] if tag.startswith(kind)]
    points = {tag: [(int(row["step"]), float(row[tag])) for row in rows if row[tag]] for tag in tags}
    return {tag.removeprefix(kind): tuple(zip(*pairs, strict=True)) for tag, pairs in points.items()}


def draw(file: Path, births: list[int]) -> Figure:
    """Draw the norm of the gradient, and that of the update relative to the weights, of each component."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    kinds = {"norms/grad/": "norm of the gradient", "norms/update_ratio/": "update / weights"}
    for axes, (kind, label) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        for component, (steps, values) in curves(file, kind).items():
            axes.plot(steps, values, label=component)
        for birth in births:
            axes.axvline(birth, color="0.3", linestyle="--", linewidth=1)
        axes.set(xlabel="optimizer step", title=label, yscale="log")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=9, help="epochs, at least 3 (default 9)")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="folder for log and picture (default logs)")
    args = parser.parse_args()

    quiet()
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    train, val, _ = loaders(0)
    net, logger = GrowingCNN(), CSVLogger(args.logdir, name="newborn_norms")
    growth = GrowEvery("expand", every=args.epochs // 3, limit=2)
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=5,
        callbacks=[growth, StrataMonitor(norms=True, table=False)],
        enable_checkpointing=False,
    )
    trainer.fit(net, train, val)
    picture = Path(logger.log_dir) / "norms.png"
    draw(Path(logger.log_dir) / "metrics.csv", [event.clock.step for event in net.growth_log]).savefig(picture, dpi=72)
    print(f"Norms over time: {picture}")


if __name__ == "__main__":
    main()
