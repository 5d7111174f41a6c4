"""The tensors of layers and norms to which ``widen`` adds units."""

import torch
from torch import Tensor, nn

from structurenet_pl.structure.net2net_checks import PER_UNIT, Layer, Norm
from structurenet_pl.structure.tensor_mapping import NEW_ENTRY, Copying, note_copying

# the values that a norm starts with; its reset_parameters would reset the old units, too
FRESH_NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def select_units(module: Layer | Norm, source: Tensor, divisor: Tensor | None) -> None:
    """Make unit i of a module its unit ``source[i]``, with weight and bias divided by ``divisor[i]``."""
    for name in PER_UNIT:
        if getattr(module, name, None) is not None:
            _replace(module, name, Copying(0, source, divisor if name in ("weight", "bias") else None))


def read_units(reader: Layer, source: Tensor, divisor: Tensor, old: int) -> None:
    """Make a following layer read unit i as it read unit ``source[i]``, with the weight divided by ``divisor[i]``."""
    positions = reader.weight.shape[1] // old  # inputs for each channel, > 1 for a Linear behind a convolution
    read = (source[:, None] * positions + torch.arange(positions)).masked_fill(source[:, None] == NEW_ENTRY, NEW_ENTRY)
    _replace(reader, "weight", Copying(1, read.flatten(), divisor.repeat_interleave(positions)))
    if isinstance(reader, nn.Linear):
        reader.in_features = read.numel()
    else:
        reader.in_channels = read.numel()


def initialize_new(module: Layer, dim: int, old: int, repeated: int | None) -> None:
    """Draw the entries from ``old`` on along ``dim`` by the layer's own initialization, for its present size.

    Args:
        module: The layer.
        dim: The dimension.
        old: The number of old entries.
        repeated: The sign with which the second half of the new entries repeats the first, None for no repetition.
    """
    values = {name: parameter.clone() for name, parameter in module.named_parameters()}
    # a subclass may have another initialization than torch; it knows only how to draw all entries
    module.reset_parameters()
    for name, parameter in module.named_parameters():
        if dim < parameter.ndim:
            added = parameter.shape[dim] - old
            drawn = parameter.narrow(dim, old, added)
            if repeated is not None:
                drawn.narrow(dim, added // 2, added // 2).copy_(repeated * drawn.narrow(dim, 0, added // 2))
            values[name].narrow(dim, old, added).copy_(drawn)
        parameter.copy_(values[name])


def initialize_new_features(norm: Norm, old: int) -> None:
    """Give the features from ``old`` on the values of a new norm."""
    for name, value in FRESH_NORM.items():
        if getattr(norm, name) is not None:
            getattr(norm, name)[old:] = value


def _replace(module: nn.Module, name: str, step: Copying) -> None:
    """Replace a parameter by a new parameter, or a buffer by a new buffer."""
    old: Tensor = getattr(module, name)
    value = step.of(old)
    new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    note_copying(new, old, step)
    setattr(module, name, new)
