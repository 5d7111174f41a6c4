"""Measure how much memory freezing saves: gradients, optimizer state, and tensors kept for the backward pass.

python -m examples.benchmarks.memory
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from examples.benchmarks.freezing import BATCH_SHAPES, Net
from examples.benchmarks.turns import Fit
from structurenet_pl import ProgressiveFreeze

K = 9  # of 12 blocks are frozen, after the third step
PHASES = [("all", 0, 1.0, 1.0, 0), ("frozen", 3, 0.0, 1.0, K)]


class Memory(Callback):
    """Record bytes of gradients, optimizer state, and tensors kept for the backward pass, for each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._kept: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._hooks.__exit__(None, None, None)
        gradients = [tensor.grad for tensor in pl_module.parameters() if tensor.grad is not None]
        state = [value for values in trainer.optimizers[0].state.values() for value in values.values()]
        weights = {tensor.untyped_storage().data_ptr() for tensor in pl_module.parameters()}
        kept = sum(size for address, size in self._kept.items() if address not in weights)
        self.steps.append((sum(tensor.nbytes for tensor in gradients), sum(tensor.nbytes for tensor in state), kept))

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor


def main() -> None:
    print(f"MiB in a training step, {K} of 12 blocks frozen\n")
    print("| network | | gradients | optimizer state | kept for backward | sum |\n|---|---|---|---|---|---|")
    for network, shape in BATCH_SHAPES.items():
        rows = {}
        for name, callback in {
            "frozen": ProgressiveFreeze(PHASES, unit="step"),
            "frozen, release_state": ProgressiveFreeze(PHASES, unit="step", release_state=True),
            "ideal": Callback(),
        }.items():
            memory = Memory()
            Fit(Net(network, K, "floor" if name == "ideal" else "ours"), [callback], shape).run(5, memory)
            rows = {"nothing frozen": memory.steps[1], **rows, name: memory.steps[-1]}
        for name, sizes in rows.items():
            print(f"| {network} | {name} | {' | '.join(f'{size / 2**20:.1f}' for size in (*sizes, sum(sizes)))} |")


if __name__ == "__main__":
    main()
