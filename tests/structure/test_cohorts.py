"""Which entries were born in which event, for every way of widening that people have."""

import copy
import json
import pickle

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from cohort_nets import NEW, Births, Resizable
from helpers import Net, fit, loader
from structurenet_pl import GrowableModule, GrowEvery, LRFactor, came_from, growth, widen
from structurenet_pl.structure.cohorts import blocks, entry_generations
from structurenet_pl.structure.module_structure import structure_of
from structurenet_pl.structure.replay_log import ReplayError


def births(module):
    """The generation of each entry, by name of the tensor; tensors whose entries were born together are left out."""
    structure, found = structure_of(module), {}
    for tensor, generations in structure.generations.items():
        found[structure.parameter_names[tensor]] = entries = torch.full(tensor.shape, -1)
        for block, generation in blocks(generations):
            entries[block] = generation
        assert set(entries.unique().tolist()) == entry_generations(generations)
    return found


def cohorts(module):
    return {
        name: [(cohort.born.generation, cohort.role) for cohort in some]
        for name, some in structure_of(module).cohorts.items()
    }


class Two(GrowableModule):
    """Two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(self.first(x).tanh())

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    @growth()
    def wider(self, width: int):
        widen(self.first, self.second, width)

    @growth(role="new")
    def in_place(self, more: int):
        """Data are replaced, the Parameters stay."""
        self.first.weight.data = torch.cat([self.first.weight.data, torch.ones(more, 6)])
        self.first.bias.data = torch.cat([self.first.bias.data, torch.ones(more)])
        self.second.weight.data = torch.cat([self.second.weight.data, torch.ones(3, more)], 1)

    @growth()
    def keep(self, positions: list):
        self.first.weight = came_from(nn.Parameter(self.first.weight.data[positions]), positions)
        self.first.bias = came_from(nn.Parameter(self.first.bias.data[positions]), positions)
        self.second.weight = came_from(nn.Parameter(self.second.weight.data[:, positions]), positions, 1)
        self.first.out_features = self.second.in_features = len(positions)

    @growth()
    def turn_in_place(self):
        order = list(range(len(self.first.weight)))[::-1]
        for tensor, dim in ((self.first.weight, 0), (self.first.bias, 0), (self.second.weight, 1)):
            tensor.data = tensor.data.index_select(dim, torch.tensor(order))
            came_from(tensor, order, dim)

    @growth()
    def replace(self, width: int):
        """The whole layers are replaced by larger ones, as gromo does."""
        first, second = nn.Linear(6, width), nn.Linear(width, 3)
        with torch.no_grad():
            first.weight[:4], second.weight[:, :4] = self.first.weight[:4], self.second.weight[:, :4]
        self.first, self.second = first, second

    @growth()
    def rename(self):
        self.renamed = self.first
        self.forward = lambda x: self.second(self.renamed(x))
        del self.first

    @growth()
    def drop(self):
        del self.first
        self.forward = lambda x: self.second(x[:, :4])

    @growth()
    def add_again(self):
        self.first = nn.Linear(6, 9)


def test_widened_twice_in_place():
    net = Two()
    net.in_place(2)
    net.in_place(1)
    assert births(net)["first.bias"].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert births(net)["second.weight"][0].tolist() == [0, 0, 0, 0, 1, 1, 2]
    net.turn_in_place()
    assert births(net)["first.bias"].tolist() == [2, 1, 1, 0, 0, 0, 0]
    assert cohorts(net)["second"] == [(0, None), (1, "new"), (2, "new")]


def test_whole_layer_replaced():
    net = Two()
    net.replace(6)
    net.replace(7)
    assert births(net)["first.weight"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert births(net)["second.weight"][0].tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert not {"first.bias", "second.weight"} - births(net).keys()
    assert net.growth_log[-1].widened == ("first", "second")


def test_narrowed_to_founders_has_no_entry():
    net = Two()
    net.wider(6)
    net.keep([0, 5, 2, 4])
    assert births(net)["first.bias"].tolist() == [0, 1, 0, 1]
    net.keep([2, 0])
    assert net._generations == {}
    assert births(net) == cohorts(net) == {}


def test_no_founder_left():
    net = Two()
    net.wider(6)
    net.keep([4, 5])
    assert births(net)["first.bias"].tolist() == [1, 1]
    assert cohorts(net)["first"] == [(1, None)]
    assert cohorts(net)["second"] == [(0, None), (1, None)], "its bias is old"


def test_memory_does_not_grow_with_events():
    net = Two()
    net.wider(5)
    sizes = set()
    for _ in range(10):
        net.wider(6)
        net.turn_in_place()
        net.keep([1, 2, 3, 4, 5])
        net.turn_in_place()
        net.keep([1, 2, 3, 4, 0])
        sizes.add(len(pickle.dumps(net._generations)))
    assert len(sizes) == 1
    assert set(net._generations) == {"first.weight", "first.bias", "second.weight"}


def test_moved_with_its_component():
    net = Two()
    net.wider(6)
    net.rename()
    assert births(net)["renamed.bias"].tolist() == [0, 0, 0, 0, 1, 1]
    assert cohorts(net)["first"] == [(0, None), (1, None)], "the component keeps its name"


class Tied(GrowableModule):
    """A head that is tied to the table is added, then the table is removed."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x):
        return x[:, :3] @ (self.table if hasattr(self, "table") else self.head).weight.T

    training_step, configure_optimizers = Two.training_step, Two.configure_optimizers

    @growth()
    def add_tokens(self, more: int):
        self.table.weight = nn.Parameter(torch.cat([self.table.weight.data, torch.ones(more, 3)]))

    @growth()
    def add_head(self):
        self.head = nn.Linear(3, len(self.table.weight))

    @growth()
    def tie(self):
        self.head.weight = self.table.weight

    @growth()
    def drop_table(self):
        del self.table
        self.scale = nn.Parameter(torch.ones(1))

    @growth()
    def add_outputs(self):
        self.head.weight = nn.Parameter(torch.cat([self.head.weight.data, torch.ones(1, 3)]))
        self.head.bias = nn.Parameter(torch.cat([self.head.bias.data, torch.ones(1)]))


def test_tensor_that_goes_to_a_younger_component():
    """No entry is older than its component."""
    net = Tied()
    net.add_tokens(1)
    net.add_head()
    net.tie()
    assert births(net)["table.weight"][:, 0].tolist() == [0, 0, 0, 0, 1]
    net.drop_table()
    assert net.components["head"].born.generation == 2
    assert births(net) == cohorts(net) == {}
    net.add_outputs()
    assert births(net)["head.weight"][:, 0].tolist() == births(net)["head.bias"].tolist() == [2] * 5 + [5]
    fit(net, [Still()], epochs=1, data=loader(1))


def test_a_name_used_again():
    net = Two()
    net.wider(6)
    net.drop()
    assert not births(net).keys() - {"second.weight"}
    net.add_again()
    assert "first.weight" not in births(net)
    assert structure_of(net).cohorts.keys() == {"second"}


def test_failed_growth_leaves_births():
    class Broken(Two):
        @growth()
        def broken(self):
            widen(self.first, self.second, 9)
            raise ValueError("no room")

    net = Broken()
    net.wider(6)
    before = births(net)
    with pytest.raises(ValueError, match="no room"):
        net.broken()
    assert births(net).keys() == before.keys()
    assert births(net)["first.bias"].tolist() == [0, 0, 0, 0, 1, 1]


def test_copies_and_loaded_modules_have_the_same_births(tmp_path):
    net = Two()
    net.wider(6)
    net.keep([5, 0, 4, 1, 2])
    net.in_place(1)
    loaded, again = Two(), Two()
    loaded.load_state_dict(net.state_dict())
    again.in_place(3)
    with pytest.raises(RuntimeError, match="grown in another way"):
        again.load_state_dict(net.state_dict())
    for other in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other._generations == net._generations
        assert cohorts(other) == cohorts(net) == cohorts(other)
        assert {name: entries.tolist() for name, entries in births(other).items()} == {
            name: entries.tolist() for name, entries in births(net).items()
        }


class Prunes(Two):
    @growth()
    def prune(self):
        """Which units stay depends on the weights."""
        self.keep.function(self, self.second.weight.norm(dim=0).topk(4).indices.sort().values.tolist())


def pruned():
    """Founders 1 and 3 and newborns 5 and 7 are kept; a module before training would keep others."""
    net = Prunes()
    net.wider(8)
    with torch.no_grad():
        net.second.weight[:, 1::2] *= 100
    net.prune()
    assert births(net)["first.bias"].tolist() == [0, 0, 1, 1]
    return net


def test_births_of_units_that_were_kept_by_their_weights_are_loaded():
    net, loaded = pruned(), Prunes()
    with torch.no_grad():
        loaded.second.weight[:, 0] *= 100
    loaded.load_state_dict(net.state_dict())
    for name, values in births(net).items():
        assert births(loaded)[name].tolist() == values.tolist()


def test_births_of_the_first_units_are_loaded_too():
    net, loaded = Prunes(), Prunes()
    net.wider(8)
    with torch.no_grad():
        net.second.weight[:, :4] *= 100
        loaded.second.weight[:, :2] *= 0  # it would keep newborn units
    net.prune()
    assert births(net) == {}
    loaded.load_state_dict(net.state_dict())
    assert births(loaded) == {}


def test_a_module_that_has_kept_other_units_does_not_take_the_checkpoint():
    other = Prunes()
    other.wider(8)
    with torch.no_grad():
        other.second.weight[:, 4:] *= 100
    other.prune()
    with pytest.raises(ReplayError, match=r"event 2, prune\(\), has kept other entries in the module"):
        other.load_state_dict(pruned().state_dict())


@pytest.mark.parametrize("runs", [[[0, 10**12]], [[0, 10**12], [0, 4 - 10**12]], [[7, 4]], [[0, 5]], None])
def test_births_that_do_not_fit_are_refused(runs):
    state = pruned().state_dict()
    log = json.loads(bytes(state["growth_log"].tolist()))
    log[-1]["births"]["first.bias"] = runs and [runs]
    state["growth_log"] = torch.tensor(list(json.dumps(log).encode()), dtype=torch.uint8)
    net = Prunes()
    with pytest.raises(ReplayError, match=r"event 2 of the checkpoint, prune\(\), raised"):
        net.load_state_dict(state)
    assert net.growth_log == ()


def test_earlier_checkpoint_undoes_births():
    net = Two()
    founding = net.state_dict()
    net.wider(6)
    earlier = copy.deepcopy(net.state_dict())
    net.keep([5, 0, 4])
    net.load_state_dict(earlier)
    assert births(net)["first.bias"].tolist() == [0, 0, 0, 0, 1, 1]
    net.load_state_dict(founding)
    assert births(net) == cohorts(net) == {}


class Attention(Two):
    """Packed weights of the attention are widened by hand: q, k and v lie behind each other."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.lstm, self.gru = nn.LSTM(4, 3, batch_first=True), nn.GRU(3, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.norm(self.first(x))
        h = h[None]  # the batch is a sequence
        h = self.lstm(self.attention(h, h, h)[0])[0]
        return self.second(nn.functional.pad(self.gru(h)[0][0], (0, self.second.in_features - self.gru.hidden_size)))

    @growth()
    def widen_all(self):
        """The model dimension becomes 6, the hidden sizes 4 and 3."""
        spread = [at if at < 4 else NEW for at in range(6)]
        self.first = resized_module(nn.Linear(6, 6), self.first, weight=[spread, None], bias=[spread])
        packed = [block * 4 + at if at != NEW else NEW for block in range(3) for at in spread]
        self.attention.in_proj_weight = moved(self.attention.in_proj_weight, [packed, spread])
        self.attention.in_proj_bias = moved(self.attention.in_proj_bias, [packed])
        self.attention.out_proj.weight = moved(self.attention.out_proj.weight, [spread, spread])
        self.attention.out_proj.bias = moved(self.attention.out_proj.bias, [spread])
        self.attention.embed_dim = self.attention.kdim = self.attention.vdim = self.attention.head_dim = 6
        norm = nn.BatchNorm1d(6)
        self.norm = resized_module(norm, self.norm, weight=[spread], bias=[spread])
        for name, old, gates, inputs in (("lstm", self.lstm, 4, spread), ("gru", self.gru, 3, [0, 1, 2, NEW])):
            hidden = [*range(old.hidden_size), NEW]
            rows = [gate * old.hidden_size + at if at != NEW else NEW for gate in range(gates) for at in hidden]
            new = type(old)(len(inputs), len(hidden), batch_first=True)
            new.weight_ih_l0 = moved(old.weight_ih_l0, [rows, inputs])
            new.weight_hh_l0 = moved(old.weight_hh_l0, [rows, hidden])
            new.bias_ih_l0, new.bias_hh_l0 = moved(old.bias_ih_l0, [rows]), moved(old.bias_hh_l0, [rows])
            setattr(self, name, new)


def moved(old, places):
    """A parameter with old entries at new places along each dimension, 0 elsewhere."""
    value = old.detach()
    for dim, positions in enumerate(places):
        if positions is not None:
            padded = torch.cat([value, torch.zeros_like(value.narrow(dim, 0, 1))], dim)
            value = padded.index_select(dim, torch.tensor([at if at != NEW else value.shape[dim] for at in positions]))
    new = nn.Parameter(value)
    for dim, positions in enumerate(places):
        if positions is not None:
            came_from(new, positions, dim)
    return new


def resized_module(new, old, **places):
    for name, positions in places.items():
        setattr(new, name, moved(getattr(old, name), positions))
    return new


class Still(LRFactor):
    """New entries stand still."""

    def factor(self, component, now):
        return 0.0 if component.born.generation else 1.0


class WatchNew(Callback):
    """Whether only old entries have moved, since the last growth."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.start = {name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()}

    def on_train_end(self, trainer, pl_module):
        self.moved = {name: (tensor.detach() != self.start[name]) for name, tensor in pl_module.named_parameters()}


def test_packed_weights_norms_and_recurrent_layers():
    net, watch = Attention(), WatchNew()
    fit(net, [GrowEvery("widen_all", 1, limit=1), Still(), watch], epochs=2)
    found = births(net)
    assert found["attention.in_proj_bias"].view(3, 6).tolist() == [[0, 0, 0, 0, 1, 1]] * 3
    assert found["attention.in_proj_weight"].view(3, 6, 6)[1].tolist() == [[0] * 4 + [1] * 2] * 4 + [[1] * 6] * 2
    assert found["lstm.weight_hh_l0"].view(4, 4, 4)[2].tolist() == [[0, 0, 0, 1]] * 3 + [[1] * 4]
    assert found["gru.bias_ih_l0"].view(3, 3).tolist() == [[0, 0, 1]] * 3
    assert found["norm.weight"].tolist() == [0, 0, 0, 0, 1, 1]
    for name, entries in found.items():
        assert not watch.moved[name][entries == 1].any(), name
        assert watch.moved[name][entries == 0].any() or name == "first.bias", "the norm takes this bias away"


def test_table_tied_to_the_head_is_one_tensor():
    net, births_of_test = Resizable("tied"), Births({0: [(0, 3, True)], 1: [(0, 8, False)]})
    fit(net, [births_of_test, Still()], epochs=3)
    (name,) = births(net)
    assert name == "layers.0.weight"
    assert births(net)[name].tolist() == births_of_test.entries[name].tolist()


def replaced_outside(net, rows):
    """The user replaces the first layer's weight, and tells the optimizer."""
    old = net.first.weight
    net.first.weight = nn.Parameter(torch.ones(rows, 6))
    for group in net.trainer.optimizers[0].param_groups:
        group["params"] = [net.first.weight if tensor is old else tensor for tensor in group["params"]]


@pytest.mark.parametrize("rows", [6, 9])
def test_tensor_replaced_outside_of_growth(rows):
    """Of the same shape it keeps its births, of another it has none: nobody said where its entries came from."""

    class Outside(Two):
        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.current_epoch == 2:
                replaced_outside(self, rows)

        def forward(self, x):
            return self.second((self.first.weight @ x.T)[:6].T)

    class Slow(LRFactor):
        def factor(self, component, now):
            return 0.5 if component.born.generation else 1.0

    net = Outside()
    fit(net, [GrowEvery("wider", 1, limit=1, arguments={"width": 6}), Slow()], epochs=4)
    assert ("first.weight" in births(net)) == (rows == 6)
    assert "second.weight" in births(net)


def test_grows_on_from_a_tensor_replaced_outside_of_growth():
    net = Two()
    net.wider(6)
    net.first = nn.Linear(6, 5)
    net.second = nn.Linear(5, 3)
    assert births(net) == cohorts(net) == {}
    net.wider(7)
    assert births(net)["first.bias"].tolist() == [0, 0, 0, 0, 0, 2, 2]


def test_widened_newborn_and_widened_with_newborn():
    class Mixed(Net):
        @growth(role="patch")
        def both(self):
            widen(self.body[0], self.body[3], 10)
            self.patches.append(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 8)))

        @growth()
        def widen_patch(self):
            widen(self.patches[0][0], self.patches[0][2], 6)

    net = Mixed()
    net.body[4] = nn.Identity()
    net.both()
    assert cohorts(net)["body.0"] == [(0, "scaffold"), (1, "patch")]
    assert net.components["patches.0"].born.generation == 1
    net.widen_patch()
    assert cohorts(net)["patches.0"] == [(1, "patch"), (2, "patch")]
    fit(net, [Still()], epochs=1, data=loader(1))
