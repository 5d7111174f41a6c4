"""A small language model whose stack of blocks grows while it trains: on one process, under DDP, or under FSDP2.

A word-level transformer learns the reference texts of Python, which Python ships. Every few epochs it gets another
block, which starts as the identity and warms up. `--strategy` is all that changes from one process to several: under
`fsdp2` each new block is divided among the processes like its siblings. The losses of `ddp` and `fsdp2` are equal up to
rounding; on one process the rows come in other batches.

    python examples/growing_stack.py
    python examples/growing_stack.py --strategy ddp --processes 2
    python examples/growing_stack.py --strategy fsdp2 --processes 2
"""

import argparse
import re
from collections import Counter
from pydoc_data.topics import topics

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from quiet import quiet
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from structurenet_pl import GrowableModule, GrowEvery, Warmup, growth

UNKNOWN = 0  # the number of all words outside the vocabulary
LENGTH = 32  # words in a row that the model reads
BATCH = 32  # rows in a batch, over all processes


class Block(nn.Module):
    """Attention to earlier words and a small network, each added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def start_as_identity(self) -> "Block":
        for last in (self.attention.out_proj, self.mlp[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return self

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        y = self.before_attention(x)
        x = x + self.attention(y, y, y, attn_mask=later, need_weights=False)[0]
        return x + self.mlp(self.before_mlp(x))


class GrowingStack(GrowableModule):
    """Predicts the next word."""

    def __init__(self, words: int, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList([Block(width)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, words))

    def configure_model(self) -> None:
        # Lightning may call this more than once; the mesh is None but under ModelParallelStrategy
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            for part in (*self.blocks, self):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])

    @growth(role="new")
    def deeper(self) -> None:
        self.blocks.append(Block(self.hparams.width).start_as_identity())

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places.weight[: words.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def rows(vocabulary: int) -> Tensor:
    """Return Python's reference texts as rows of numbers."""
    text = re.findall(r"[a-z]+|[^\sa-z]", " ".join(topics[name] for name in sorted(topics)).lower())
    known = {word: number for number, (word, _) in enumerate(Counter(text).most_common(vocabulary - 1), UNKNOWN + 1)}
    return torch.tensor([known.get(word, UNKNOWN) for word in text]).unfold(0, LENGTH + 1, LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=["one", "ddp", "fsdp2"], default="one", help="(default one process)")
    parser.add_argument("--processes", type=int, default=2, help="number of processes of ddp and fsdp2 (default 2)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs (default 6)")
    parser.add_argument("--every", type=int, default=2, help="epochs from block to block (default 2)")
    parser.add_argument("--rows", type=int, default=512, help="rows of 33 words to train on (default 512)")
    args = parser.parse_args()

    quiet()
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    processes = 1 if args.strategy == "one" else args.processes
    strategies = {
        "one": lambda: "auto",
        "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
        "fsdp2": lambda: ModelParallelStrategy(processes, 1, process_group_backend="gloo"),
    }
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        devices=processes,
        strategy=strategies[args.strategy](),
        callbacks=[GrowEvery("deeper", every=args.every, limit=(args.epochs - 1) // args.every), Warmup(2)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = rows(vocabulary=500)[: args.rows + 128]
    net = GrowingStack(words=500)
    size = BATCH // processes
    train, held_out = DataLoader(data[: args.rows], size, shuffle=True), DataLoader(data[args.rows :], size)
    trainer.fit(net, train, held_out)
    if rank_zero_only.rank == 0:
        loss = float(trainer.callback_metrics["val_loss"])
        print(f"{len(net.blocks)} blocks on {processes} process(es): loss of a word {loss:.3f} on held-out texts")


if __name__ == "__main__":
    main()
