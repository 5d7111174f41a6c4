"""What one of many ranks under FSDP2 sends and holds when its network grows, simulated in one process.

    python -m examples.benchmarks.many_ranks
    python -m examples.benchmarks.many_ranks --ranks 1000 --width 8192 --blocks 82  # 70 billion parameters, needs 20 GB

A Trainer trains a stack of blocks as rank 0 of torch's fake process group: no message is sent, and other ranks seem to
hold what this one holds. So the number of messages, their bytes and the memory are those of a real run, the weights are
not, and the time is that of rank 0 without the network between the ranks.
"""

import argparse
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore  # private: torch's own tests simulate ranks with it
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from examples.quiet import quiet
from structurenet_pl import GrowableModule, GrowEvery, growth, widen

RECEIVED = {  # operation -> what this rank gets from others
    "c10d.allgather_": "reports",
    "c10d.allreduce_": "reports",
    "c10d.broadcast_": "broadcast",
    "_c10d_functional.all_gather_into_tensor": "gathered",
}
WAITS = ("_c10d_functional._wrap_tensor_autograd", "_c10d_functional.wait_tensor")  # they send nothing


class Block(nn.Module):
    """As many weights as a block of a large language model: for four matrices of attention, and for an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Linear(width, 9 * width // 4, bias=False)
        self.up, self.down = nn.Linear(width, 21 * width // 4), nn.Linear(21 * width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)[..., : x.shape[-1]]
        return x + self.down(torch.relu(self.up(x)))


class Stack(GrowableModule):
    """Only the first and the last block take part in a training step: growth asks for no more."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])

    def configure_model(self) -> None:
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            for part in (*self.blocks, self):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])

    @growth(role="new")
    def deeper(self) -> None:
        self.blocks.append(Block(self.width))

    @growth()
    def wider(self) -> None:
        widen(self.blocks[0].up, self.blocks[0].down, 6 * self.width)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.blocks[-1](self.blocks[0](batch)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@dataclass
class Cost:
    """What one growth costs a rank.

    Attributes:
        messages: Number of messages.
        received: Bytes that the rank receives as reports, as broadcast tensors, and as gathered tensors.
        peak: Largest number of bytes of new tensors at a time.
        seconds: CPU time.
    """

    messages: int
    received: Mapping[str, int]
    peak: int
    seconds: float


class MessageAndMemoryCounter(TorchDispatchMode):
    """Counts the messages of the operations inside it, and the memory of the tensors that they make.

    Raises:
        NotImplementedError: If an operation may send a message that is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._messages, self._received = 0, dict.fromkeys(RECEIVED.values(), 0)
        self._bytes = self._peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._start = time.process_time()

    @property
    def cost(self) -> Cost:
        """The cost so far."""
        return Cost(self._messages, self._received, self._peak, time.process_time() - self._start)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = [leaf.untyped_storage() for leaf in _tensors((args, kwargs))]
        found = func(*args, **kwargs)
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func, (args, kwargs, found))
        for leaf in _tensors(found):
            # a DTensor holds no memory but that of its shard
            if not is_traceable_wrapper_subclass(leaf):
                self._hold(leaf.untyped_storage(), before)
        return found

    def _count(self, func: Any, values: Any) -> None:
        name = f"{func.namespace}.{func.overloadpacket.__name__}"
        if name in WAITS:
            return
        if name not in RECEIVED:
            raise NotImplementedError(f"{name} may send a message, expected one of {list(RECEIVED)}: add it there")
        # gathered reports are a list of tensors for all ranks, in which torch lists each of them once
        shares = {id(leaf): leaf.nbytes for leaf in _tensors(values)}
        size = sum(shares.values()) if RECEIVED[name] == "reports" else max(shares.values(), default=0)
        self._messages += 1
        self._received[RECEIVED[name]] += size

    def _hold(self, storage: Any, before: list[Any]) -> None:
        if storage in self._known or any(storage is other for other in before):
            return
        self._known.add(storage)
        self._bytes += storage.nbytes()
        self._peak = max(self._peak, self._bytes)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self._bytes -= size


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class CountedGrowth(GrowEvery):
    """Grows once, and notes what that costs."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        grown = len(pl_module.growth_log)
        with MessageAndMemoryCounter() as counter:
            super().on_train_batch_end(trainer, pl_module, *args)
        if len(pl_module.growth_log) > grown:
            self.cost = counter.cost


def simulate(ranks: int, width: int, blocks: int) -> dict[str, Cost]:
    """The cost of a growth by a block, and of one by units of a block, for one of many ranks."""
    torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    triggers = {
        name: CountedGrowth(name, every=number, unit="step", limit=1)
        for number, name in enumerate(("deeper", "wider"), 1)
    }
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=ranks,
        strategy=ModelParallelStrategy(ranks, 1, process_group_backend="fake"),
        max_epochs=1,
        callbacks=list(triggers.values()),
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with torch.device("meta"):  # each rank makes its shards only
        net = Stack(width, blocks)
    trainer.fit(net, DataLoader(torch.randn(3, 1, width), batch_size=None))
    torch.distributed.destroy_process_group()
    return {name: trigger.cost for name, trigger in triggers.items()}


def _in_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[10, 100, 1000], help="(default 10 100 1000)")
    parser.add_argument("--width", type=int, default=256, help="of the network, a multiple of 4 (default 256)")
    parser.add_argument("--blocks", type=int, default=4, help="of the network before it grows (default 4)")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    with torch.device("meta"):
        block = sum(tensor.nbytes for tensor in Block(args.width).parameters())
    print(f"{args.blocks} blocks of {_in_bytes(block)} each\n")
    print("| growth | ranks | messages | broadcast | gathered | reports | memory peak | CPU time |")
    print("|---|---|---|---|---|---|---|---|")
    for ranks in args.ranks:
        for name, cost in simulate(ranks, args.width, args.blocks).items():
            sizes = [cost.received["broadcast"], cost.received["gathered"], cost.received["reports"], cost.peak]
            print(
                f"| {name} | {ranks} | {cost.messages} | {' | '.join(map(_in_bytes, sizes))} | {cost.seconds:.2f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
