"""Networks that are widened, narrowed and reordered by hand, and the birth of each entry, kept by the test."""

import random
from functools import partial

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from structurenet_pl import AgeDecay, GrowthMixin, GrowthResponder, RoleLR, Warmup, came_from, growth
from structurenet_pl.learning_rates.lr_table import table_of
from structurenet_pl.structure.module_structure import structure_of

NEW = -1


class Resizable(GrowthMixin, LightningModule):
    """A chain of layers with tanh between them. Outputs of a layer, and inputs of the next, can be changed.

    Args:
        kind: The first layer; "tied" is an embedding whose table is the output layer, too.
        optimizer: Makes the optimizer from params.
        grouped: Whether one-dimensional tensors stand in a group without weight decay.
        scheduler: Makes the scheduler from the optimizer.
    """

    def __init__(self, kind="linear", optimizer=None, grouped=False, scheduler=None):
        super().__init__()
        self.kind, self.make_optimizer, self.grouped, self.scheduler = kind, optimizer, grouped, scheduler
        first = {"linear": nn.Linear(6, 4), "conv": nn.Conv1d(1, 3, 3)}.get(kind) or nn.Embedding(5, 4)
        self.layers = nn.ModuleList([first, nn.Linear(12 if kind == "conv" else 4, 4)])
        if kind != "tied":
            self.layers.append(nn.Linear(4, 3))

    def forward(self, x):
        first, *others = self.layers
        if self.kind == "linear":
            h = first(x)
        elif self.kind == "conv":
            h = first(x.unsqueeze(1)).flatten(1)
        else:
            h = first((x * 2).abs().long() % len(first.weight)).sum(1)
        for layer in others:
            h = layer(h.tanh())
        return h @ first.weight.T if self.kind == "tied" else h

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0].to(self.layers[0].weight.dtype)), batch[1])

    def configure_optimizers(self):
        make = self.make_optimizer or (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
        params = list(self.parameters())
        if self.grouped:
            flat = {"params": [tensor for tensor in params if tensor.ndim < 2], "weight_decay": 0.0}
            params = [{"params": [tensor for tensor in params if tensor.ndim > 1]}, flat]
        optimizer = make(params)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])

    @growth()
    def resize(self, place: str, positions: list):
        self.change(place, positions)

    @growth(role="new")
    def resize_new(self, place: str, positions: list):
        self.change(place, positions)

    def places(self):
        """The dimensions that can be changed."""
        return {"tied": ["tokens"], "embedding": ["tokens", "0", "1"]}.get(self.kind, ["0", "1"])

    def size(self, place):
        layer = self.layers[0 if place == "tokens" else int(place)]
        return layer.weight.shape[1 if place == "0" and isinstance(layer, nn.Embedding) else 0]

    def moves(self, place, positions):
        """The tensors and dimensions of a place, with the old position of each entry."""
        if place == "tokens":
            return {("layers.0.weight", 0): positions}
        times = 4 if self.kind == "conv" and place == "0" else 1
        read = [NEW if at == NEW else at * times + k for at in positions for k in range(times)]
        reader = {(f"layers.{int(place) + 1}.weight", 1): read}
        if isinstance(self.layers[int(place)], nn.Embedding):
            return {("layers.0.weight", 1): positions} | reader
        return {(f"layers.{place}.weight", 0): positions, (f"layers.{place}.bias", 0): positions} | reader

    def change(self, place, positions):
        for (name, dim), sources in self.moves(place, positions).items():
            path, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(path), leaf, resized(self.get_parameter(name), sources, dim))


def resized(old, positions, dim):
    """A parameter whose entries along a dimension are old entries, or new ones where the position is -1."""
    drawn = 0.3 * torch.randn(len(positions), *old.transpose(0, dim).shape[1:], dtype=old.dtype)
    for to, source in enumerate(positions):
        if source != NEW:
            drawn[to] = old.detach().transpose(0, dim)[source]
    return came_from(nn.Parameter(drawn.transpose(0, dim).contiguous()), positions, dim)


def random_positions(size, seed):
    """Old positions after some narrowing, reordering and widening."""
    chance = random.Random(seed)
    positions = list(range(size))
    if chance.random() < 0.5:
        chance.shuffle(positions)
    if chance.random() < 0.5:
        positions = positions[: max(3, size - chance.randint(0, 2))]  # there are three classes
    for _ in range(chance.randint(0, 2)):
        positions.insert(chance.randint(0, len(positions)), NEW)
    return positions if positions != list(range(size)) else [*positions, NEW]


class Births(Callback):
    """Grows at ends of epochs, and keeps the generation of every entry, one by one.

    Args:
        events: Epoch -> events, each with a number for the place, a seed for the positions, and whether it has a role.
    """

    def __init__(self, events):
        self.events, self.entries, self.roles = events, {}, {}

    def on_train_start(self, trainer, pl_module):
        if not self.entries:
            self.entries = {name: np.zeros(tensor.shape, int) for name, tensor in pl_module.named_parameters()}

    def on_train_epoch_end(self, trainer, pl_module):
        for number, seed, has_role in self.events.get(trainer.current_epoch, ()):
            place = pl_module.places()[number % len(pl_module.places())]
            self.grow(pl_module, place, random_positions(pl_module.size(place), seed), has_role)

    def grow(self, module, place, positions, has_role=False):
        moves = module.moves(place, positions)
        (module.resize_new if has_role else module.resize)(place, positions)
        generation = len(module.growth_log)
        self.roles[generation] = "new" if has_role else None
        for (name, dim), sources in moves.items():
            old = np.moveaxis(self.entries[name], dim, 0)
            new = [np.full_like(old[0], generation) if at == NEW else old[at] for at in sources]
            self.entries[name] = np.moveaxis(np.stack(new), 0, dim)


class AsParameters:
    """A network of plain torch in which every cohort is a Parameter of its own, scattered into the tensor.

    Args:
        module: Values, and the forward pass, which runs on the scattered tensors.
        optimizer: Its state and settings are copied.
        births: The generation of each entry, by name of the tensor.
    """

    def __init__(self, module, optimizer, births):
        self.module = module
        self.masks, self.parts, states, groups = {}, {}, {}, []
        names = {tensor: name for name, tensor in module.named_parameters()}
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                name = names[tensor]
                for birth in map(int, np.unique(births[name])):
                    mask = torch.from_numpy(births[name] == birth)
                    part = nn.Parameter(tensor.detach()[mask].clone())
                    self.masks[name, birth], self.parts[name, birth] = mask, part
                    states[part] = {key: part_of(value, tensor, mask) for key, value in optimizer.state[tensor].items()}
                    groups.append({**group, "params": [part], "name": (name, birth)})
        self.optimizer = type(optimizer)([{"params": group["params"]} for group in groups], lr=1.0)
        for mine, group in zip(self.optimizer.param_groups, groups, strict=True):
            mine.update(group)
        self.optimizer.state.update((part, state) for part, state in states.items() if state)

    def tensors(self):
        full = {}
        for (name, birth), part in self.parts.items():
            mask = self.masks[name, birth]
            empty = full.get(name, torch.zeros(mask.shape, dtype=part.dtype))
            full[name] = empty.masked_scatter(mask, part)
        return full

    def step(self, batch, lr_of):
        """One step; every cohort has the lr that the function gives for the name of its tensor and its birth."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr_of(*group["name"])
        self.optimizer.zero_grad()
        # the tied table is scattered once: both of its uses read one tensor
        output = torch.func.functional_call(self.module, self.tensors(), (batch[0].to(torch.float64),))
        nn.functional.cross_entropy(output, batch[1]).backward()
        self.optimizer.step()


def part_of(state, tensor, mask):
    """The part of an optimizer's state that belongs to some entries."""
    if not torch.is_tensor(state):
        return state
    return state[mask].clone() if state.shape == tensor.shape else state.clone()


class Growing(Resizable):
    """It grows by its own number of epochs."""

    def __init__(self):
        super().__init__("linear", partial(torch.optim.Adam, lr=0.02))

    def on_train_epoch_end(self):
        if self.current_epoch < 4:
            place = self.places()[self.current_epoch % 2]
            method = self.resize_new if self.current_epoch % 2 else self.resize
            method(place, random_positions(self.size(place), (5, 12, 2, 1)[self.current_epoch]))
        super().on_train_epoch_end()


def slow_cohorts():
    return [Warmup(5, unit="step"), AgeDecay(0.5, unit="generation"), GrowthResponder(recovery=1), RoleLR({"new": 0.7})]


def outcome(module, trainer):
    structure = structure_of(module)
    return {
        "weights": dict(module.state_dict()),
        "optimizer": trainer.optimizers[0].state_dict(),
        "lrs": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "shares": table_of(trainer.optimizers[0]).matrix.slow,
        "ages": [(name, vars(cohort)) for name, some in structure.cohorts.items() for cohort in some],
        "entries": dict(module._generations),
    }
