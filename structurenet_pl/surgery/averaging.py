"""Copies of a module in which its weights are averaged grow as it grows."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from structurenet_pl.growing import Growing, replay
from structurenet_pl.lightning import Callback
from structurenet_pl.snapshots import Snapshot
from structurenet_pl.successors import embed


def averaged_copies(callbacks: Iterable[Callback]) -> list[Growing]:
    """The copies of a growable module that weight averaging keeps, whichever Lightning it is from."""
    averages = [getattr(callback, "_average_model", None) for callback in callbacks]
    copies = [average.module if isinstance(average, AveragedModel) else average for average in averages]
    return [copy for copy in copies if isinstance(copy, Growing)]


@contextmanager
def grown_alike(callbacks: Iterable[Callback], module: Growing) -> Iterator[None]:
    """Let averaged copies grow until they are built as the module; if the body of the ``with`` raises, undo it.

    What they average is kept, and goes with the entries of a tensor whose shape changes; what is new starts as it is in
    the module. A buffer of another shape is new as a whole: nobody says where its entries came from.
    """
    with ExitStack() as undo:
        for copy in averaged_copies(callbacks):
            averages = {tensor: tensor.detach().clone() for tensor in _tensors(copy).values()}
            undo.callback(_assign, averages)
            undo.callback(Snapshot(copy).restore)
            _grow(copy, module, averages)
        yield
        undo.pop_all()


def _grow(copy: Growing, module: Growing, averages: Mapping[Tensor, Tensor]) -> None:
    kept, averaged = dict(averages), dict[Tensor, Tensor]()  # values, and where in a changed shape they stand
    before = _tensors(copy)
    copy.growth_log = module.growth_log[: len(copy.growth_log)]  # the same, maybe dated anew
    for change in replay(copy, module.growth_log):
        for old, successor in change.successors.items():
            average = kept.pop(old, None)
            if average is not None and successor is not None:
                where = averaged.get(old, torch.ones_like(average, dtype=torch.bool))
                whole = (True,) * average.ndim
                kept[successor.tensor] = embed(average, successor, whole, average.new_zeros(()))
                averaged[successor.tensor] = embed(where, successor, whole, where.new_zeros(()))
    now, live = _tensors(copy), _tensors(module)
    left = kept.keys() - set(now.values())
    gone = {name: kept[tensor] for name, tensor in before.items() if tensor in left}
    values = {}
    for name, tensor in now.items():
        average = kept.get(tensor, gone.get(name))
        values[tensor] = average if average is not None and average.shape == tensor.shape else live[name]
        if tensor in averaged:
            values[tensor] = torch.where(averaged[tensor], values[tensor], live[name].to(tensor.device))
    _assign(values)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


@torch.no_grad()
def _assign(values: Mapping[Tensor, Tensor]) -> None:
    for tensor, value in values.items():
        tensor.copy_(value)
