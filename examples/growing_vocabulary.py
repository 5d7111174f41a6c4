"""Teach a small language model new words, and let the words that it knows stay where they are.

A word-level model learns the reference texts of Python, which Python ships. Then it reads the descriptions of
scikit-learn's data sets, in which every fourth word is unknown to it. A growth method enlarges its embedding, which is
the output head, too. Four fits start from there: all weights at the full learning rate, all at a tenth, the new rows
of the embedding at the full rate and the rest at a tenth (`RoleLR`), and the new rows alone. At the end the script
prints how well each model reads the old and the new texts, and how far the embeddings of the old words have moved.

    python examples/growing_vocabulary.py
    python examples/growing_vocabulary.py --words 600 --slow 0.02

A Hugging Face model grows in the same way: call its `resize_token_embeddings` in the growth method.
`AgeDecay(gamma=0.1)` in place of `RoleLR` does the same here, and does it again at each further growth: whatever is
one growth event older learns ten times as slowly.
"""

import argparse
import copy
import re
from collections import Counter
from importlib.resources import files
from pydoc_data.topics import topics

import torch
from epoch_bar import EpochBar
from lightning.pytorch import Trainer, seed_everything
from quiet import quiet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import DataLoader

from structurenet_pl import GrowableModule, RoleLR, growth

UNKNOWN = 0  # the number of all words outside the vocabulary
LENGTH = 32  # words in a row that the model reads


class LanguageModel(GrowableModule):
    """Predicts the next word; embedding and output head share one matrix, which can get more rows."""

    def __init__(self, words: int, width: int = 64, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # for the head: scores of about 1
        self.body = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.bias = nn.Parameter(torch.zeros(words))

    def configure_components(self) -> dict[str, str]:
        return {"*": "pretrained"}

    @growth(role="new")
    def add_words(self, count: int) -> None:
        """Add rows that start as an average word, and as one as rare as the rarest word."""
        rows, bias = self.embedding.weight.detach(), self.bias.detach()
        self.embedding.weight = nn.Parameter(torch.cat([rows, rows.mean(0).expand(count, -1)]))
        self.embedding.num_embeddings += count
        self.bias = nn.Parameter(torch.cat([bias, bias.min().expand(count)]))

    def forward(self, words: Tensor) -> Tensor:
        hidden, _ = self.body(self.dropout(self.embedding(words)))
        return linear(self.dropout(hidden), self.embedding.weight, self.bias)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def split_words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def texts() -> tuple[list[str], list[str]]:
    """Return the words of Python's reference texts, and of the descriptions of scikit-learn's data sets."""
    descriptions = [path for path in (files("sklearn.datasets") / "descr").iterdir() if path.name.endswith(".rst")]
    new = [path.read_text(encoding="utf-8") for path in sorted(descriptions, key=lambda path: path.name)]
    return split_words(" ".join(topics[name] for name in sorted(topics))), split_words(" ".join(new))


def split(words: list[str], vocabulary: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return the text as rows of numbers, for training and (every eighth row) for validation."""
    numbers = torch.tensor([vocabulary.get(word, UNKNOWN) for word in words])
    rows = numbers.unfold(0, LENGTH + 1, LENGTH)
    held_out = torch.arange(len(rows)) % 8 == 7
    return rows[~held_out], rows[held_out]


@torch.no_grad()
def loss_on(net: LanguageModel, rows: Tensor) -> float:
    """Return the mean loss of a word."""
    net.eval()
    loss = float(net.training_step(rows, 0))
    net.train()
    return loss


def fit(title: str, net: LanguageModel, rows: Tensor, epochs: int, seed: int, factors: list) -> None:
    seed_everything(seed, verbose=False)  # the same order of the data in each fit
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*factors, EpochBar(title)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, DataLoader(rows, 32, shuffle=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="epochs on the texts of Python (default 5)")
    parser.add_argument("--more-epochs", type=int, default=15, help="epochs on the new texts (default 15)")
    parser.add_argument("--words", type=int, default=300, help="number of new words (default 300)")
    parser.add_argument("--slow", type=float, default=0.1, help="factor of all that is old (default 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights and data order (default 0)")
    args = parser.parse_args()

    quiet()
    torch.set_num_threads(1)
    seed_everything(args.seed, verbose=False)

    old_text, new_text = texts()
    known = {word: number for number, (word, _) in enumerate(Counter(old_text).most_common(1000), start=UNKNOWN + 1)}
    unknown = Counter(word for word in new_text if word not in known)
    grown = known | {
        word: number for number, (word, _) in enumerate(unknown.most_common(args.words), start=len(known) + 1)
    }
    added = len(grown) - len(known)
    old_rows, old_val = split(old_text, known)
    new_rows, new_val = split(new_text, grown)
    print(f"{len(known)} words known; {unknown.total() / len(new_text):.0%} of the new texts are other words")
    examples = [word for word in grown if word not in known and word.isalpha()][:8]
    print(f"The {added} most frequent of these are added, such as {', '.join(examples)}")

    net = LanguageModel(len(known) + 1)
    fit("before growth", net, old_rows, args.epochs, args.seed, [])
    old_before = loss_on(net, old_val)
    net.add_words(added)
    table = Table(title="Loss of a word on held-out texts, and drift of the embeddings of old words")
    for heading in ("", "old texts", "new texts", "drift"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("before growth", f"{old_before:.3f}", "", "")
    table.add_row("after growth", f"{loss_on(net, old_val):.3f}", f"{loss_on(net, new_val):.3f}", f"{0:.3f}")

    start, results = net.embedding.weight.detach()[: len(known) + 1].clone(), {}
    for title, new, old in [
        ("all at the full lr", 1.0, 1.0),
        (f"all at {args.slow:g}", args.slow, args.slow),
        (f"new rows at 1, the rest at {args.slow:g}", 1.0, args.slow),
        ("new rows alone", 1.0, 0.0),
    ]:
        factors = [] if new == old == 1 else [RoleLR({"new": new, "pretrained": old})]
        learner = copy.deepcopy(net)
        fit(title, learner, new_rows, args.more_epochs, args.seed, factors)
        drift = float((learner.embedding.weight.detach()[: len(start)] - start).norm() / start.norm())
        results[title] = loss_on(learner, old_val), loss_on(learner, new_val), drift
        table.add_row(title, *(f"{number:.3f}" for number in results[title]))
    Console().print(table)
    full, _, parts, _ = results.values()
    print(
        f"With the full lr for the new rows only, old words moved {parts[2] / full[2]:.2f} times as far as with the "
        f"full lr for all. The loss on old texts is {full[0] - parts[0]:.2f} lower, that on new texts "
        f"{parts[1] - full[1]:.2f} higher"
    )


if __name__ == "__main__":
    main()
