"""Weight averaging beside growth: averages by hand, resume, rollback, batch norm."""

from copy import deepcopy
from itertools import chain
from threading import Lock

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.pytorch import Callback, callbacks, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.swa_utils import update_bn

import namespace_worker
import structurenet_pl
import structurenet_pl.pytorch_lightning as twin
from helpers import BATCHES, LRTrace, Net, assert_same, example_factors, fit, loader, slow_but_for, weights
from structurenet_pl import Components, GrowEvery, came_from, growth, widen
from structurenet_pl.lightning import MisconfigurationException

EPOCHS = 6
# The next average of a tensor, after n others
RULES = {
    "EMAWeightAveraging": lambda average, live, n: 0.9 * average + (1 - 0.9) * live,
    "WeightAveraging": lambda average, live, n: average + (live - average) / (n + 1),
    "StochasticWeightAveraging": lambda average, live, n: average + (live - average) / (n + 1),
}
RULES = {name: rule for name, rule in RULES.items() if hasattr(callbacks, name)}  # some are new in 2.6
ARGUMENTS = {
    "EMAWeightAveraging": {"decay": 0.9},
    "WeightAveraging": {},
    "StochasticWeightAveraging": {"swa_lrs": 0.05, "swa_epoch_start": 3, "annealing_epochs": 2},
}
NAMES = pytest.mark.parametrize("name", RULES)

pytestmark = pytest.mark.filterwarnings("ignore:Swapping scheduler")


class Grows(Net):
    """Its growth shifts names, what is born has buffers, and the first patch may change its shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.patches.append(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 8)))

    @growth(role="neck")
    def insert_neck(self):
        self.necks.insert(0, nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), Scale()))

    @growth(role="patch", adjacent="beside")
    def bridge(self, beside: str):
        self.patches.append(nn.Linear(8, 8))

    @growth()
    def widen(self, width: int):
        old, new = self.patches[0], nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8))
        with torch.no_grad():
            new[0].weight[: old[0].out_features] = old[0].weight
        self.patches[0] = new

    @growth()
    def prune(self, keep: list):
        first, _, second = self.patches[0]
        first.weight = came_from(nn.Parameter(first.weight.detach()[keep]), keep)
        first.bias = came_from(nn.Parameter(first.bias.detach()[keep]), keep)
        second.weight = came_from(nn.Parameter(second.weight.detach()[:, keep]), keep, dim=1)

    @growth()
    def drop(self):
        del self.patches[0]


class Scale(nn.Module):
    """Keeps a running scale in one buffer that is saved and one that is not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("saved", torch.rand(8))
        self.register_buffer("unsaved", torch.rand(8), persistent=False)

    def forward(self, x):
        for buffer in (self.saved, self.unsaved):
            buffer.mul_(0.9).add_(0.1 * x.detach().abs().mean(0))
        return x / (self.saved + 1)


def average_of(name, **arguments):
    return getattr(callbacks, name)(**ARGUMENTS[name] | arguments)


def copy_in(callback):
    return getattr(callback._average_model, "module", callback._average_model)


def tensors(module):
    return dict(chain(module.named_parameters(), module.named_buffers()))


class ByHand(Callback):
    """Averages tensor by tensor, whatever its name; a newborn one starts with its value at birth."""

    def __init__(self, name, starts_at=0):
        self.rule, self.each_epoch, self.starts_at = RULES[name], name.startswith("Stochastic"), starts_at
        self.averages, self.n = {}, 0

    def on_growth(self, trainer, pl_module, event):
        for tensor in tensors(pl_module).values():
            self.averages.setdefault(tensor, tensor.detach().clone())

    def on_train_start(self, trainer, pl_module):
        self.on_growth(trainer, pl_module, None)

    def on_train_epoch_start(self, trainer, pl_module):
        if self.each_epoch and trainer.current_epoch >= 2:
            self.update()

    def on_train_batch_end(self, trainer, *args):
        if not self.each_epoch and trainer.global_step > self.starts_at:
            self.update()

    def update(self):
        for tensor, average in self.averages.items():
            live = tensor.detach()
            average.copy_(live if self.n == 0 else self.rule(average, live, torch.tensor(self.n)))
        self.n += 1


class CopiesMatch(Callback):
    """Module and averaged copy have one log and one set of names all along."""

    def __init__(self, callback):
        self.callback = callback
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, *args):
        copy = copy_in(self.callback)
        assert copy.growth_log == pl_module.growth_log
        assert list(tensors(copy)) == list(tensors(pl_module))
        self.seen.append(len(copy.growth_log))


@NAMES
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_averages_are_those_made_by_hand(name, order, unit):
    average, by_hand = average_of(name), ByHand(name)
    every = {"epoch": 1, "step": BATCHES - 1}[unit]  # before and after averaging starts
    growths = [GrowEvery("insert_neck", every, unit, limit=3), GrowEvery("add_patch", every, unit, 3, {"at": 1})]
    pair = [average, by_hand, CopiesMatch(average)]
    net = Grows()
    fit(net, [*growths, *example_factors(), *pair] if order == "after" else [*pair, *growths], epochs=EPOCHS)
    assert pair[-1].seen[-1] == 6
    copy = tensors(copy_in(average))
    names = [*dict(net.named_parameters())] if by_hand.each_epoch else [*tensors(net)]  # SWA leaves buffers alone
    for key in names:
        assert torch.equal(copy[key], by_hand.averages[tensors(net)[key]]), key
        assert torch.equal(tensors(net)[key], copy[key]), key


@pytest.mark.skipif("EMAWeightAveraging" not in RULES, reason="new in lightning 2.6")
def test_growth_before_the_first_average():
    start = 2 * BATCHES
    average = average_of("EMAWeightAveraging", update_starting_at_step=start)
    by_hand = ByHand("EMAWeightAveraging", starts_at=start)
    net = Grows()
    net.add_patch(at=0)
    fit(net, [GrowEvery("insert_neck", 1, limit=3), average, by_hand, CopiesMatch(average)])
    assert_same(weights(net), {name: by_hand.averages.get(tensors(net).get(name)) for name in weights(net)} | log(net))


@NAMES
def test_growth_before_the_fit_starts(tmp_path, name):
    net, average = Grows(), average_of(name)
    fit(net, [GrowEvery("add_patch", 1, limit=1, arguments={"at": 0})])  # its date is forgotten in the next fit
    unborn, match = Hook("setup", Grows.insert_neck, epoch=0), CopiesMatch(average)
    trainer = fit(net, [average, unborn, match])
    assert set(match.seen) == {2}
    trainer.save_checkpoint(tmp_path / "grown.ckpt")
    other = average_of(name)
    fit(Grows(), [other, CopiesMatch(other)], EPOCHS, tmp_path / "grown.ckpt")


def log(net):
    return {"growth_log": net.state_dict()["growth_log"]}


@NAMES
def test_random_numbers_are_left_as_they_are(name):
    states = []
    for averages in ([average_of(name)], []):
        seed_everything(3, verbose=False)
        fit(Net(), [GrowEvery("add_neck", 1, limit=1), *averages])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
@pytest.mark.parametrize("name", slow_but_for(["StochasticWeightAveraging", "EMAWeightAveraging"], RULES))
def test_resumed_equals_uninterrupted(tmp_path, name):
    def start(more=(), ckpt_path=None):
        seed_everything(1, verbose=False)
        net, average, trace = Grows(scheduler=halving), average_of(name), LRTrace()
        if ckpt_path is None:
            net.add_neck()  # the log is dated anew when the fit starts, that of the copy, too
        growths = [GrowEvery("bridge", 2, limit=2, arguments={"beside": "stem"}), GrowEvery("insert_neck", 2, limit=2)]
        growths += [GrowEvery("widen", 3, limit=1, arguments={"width": 6}), GrowEvery("drop", 5, limit=1)]
        growths.append(GrowEvery("prune", 4, limit=1, arguments={"keep": [1, 2, 5]}))
        named = Components({"body.0": "stem"})
        ours = [average, *growths, *example_factors(), named, trace, *more]
        trainer = fit(net, ours, EPOCHS, ckpt_path, enable_checkpointing=bool(more))
        assert len(net.growth_log) == 8
        return trace.rows, {
            "weights": weights(net),
            "average": weights(copy_in(average)),
            "optimizer": trainer.optimizers[0].state_dict(),
            "callback": average.state_dict(),
        }

    def halving(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    rows, whole = start([save])
    for epoch in range(EPOCHS - 1):
        resumed_rows, resumed = start(ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert resumed_rows == rows[BATCHES * (epoch + 1) :]
        assert_same(resumed, whole)


class Hook(Callback):
    """Does something in one hook, once, in an epoch."""

    def __init__(self, hook, act, epoch=1):
        self.done = False

        def call(trainer, pl_module, *args, **kwargs):
            if trainer.current_epoch == epoch and not trainer.sanity_checking and not self.done:
                self.done = True
                act(pl_module)

        setattr(self, hook, call)


@NAMES
def test_a_growth_that_fails_leaves_the_average_as_it_was(name):
    class Fragile(Net):
        @growth()
        def cannot_be_copied(self):
            self.necks.append(nn.Linear(8, 8))
            self.necks[-1].lock = Lock()

        @growth()
        def closes_over_the_module(self):
            self.necks.append(nn.Linear(8, 8))
            self.necks[-1].register_forward_hook(lambda *_: self.head.bias)

        @growth()
        def closes_over_a_tensor(self):
            self.necks.append(nn.Linear(8, 8))
            bias = self.head.bias
            self.necks[-1].bound = lambda x: x + bias

        @growth(like="nobody")
        def fails_in_the_optimizer(self):
            self.necks.append(nn.Linear(8, 8))

    def attempt(net):
        copy = copy_in(average)
        before, modules, live = deepcopy(weights(copy)), [*copy.modules()], weights(net)
        for grow, error, message in (
            (net.cannot_be_copied, MisconfigurationException, "Fragile cannot follow.*cannot pickle '_thread.lock'"),
            (net.closes_over_the_module, MisconfigurationException, "'necks.0._forward_hooks' is a function defined"),
            (net.closes_over_a_tensor, MisconfigurationException, "'necks.0.bound' is a function defined"),
            (net.fails_in_the_optimizer, ValueError, "nobody"),
        ):
            with pytest.raises(error, match=message):
                grow()
            assert net.growth_log == copy.growth_log == ()
            assert copy_in(average) is copy
            assert [*copy.modules()] == modules
            assert_same(weights(copy), before)
            assert_same(weights(net), live)
        net.add_neck()
        assert copy_in(average).growth_log == net.growth_log

    average = average_of(name)
    match = CopiesMatch(average)
    fit(Fragile(), [average, Hook("on_train_epoch_start", attempt), match])
    assert match.seen[-1] == 1


@NAMES
def test_copies_grow_by_themselves(name):
    def grow_copies(net):
        for copy in (copy_in(average), deepcopy(net)):
            copy.add_neck()
            assert len(copy.growth_log) == 1  # at once: nobody holds it back until the batch is over
        assert net.growth_log == ()

    average = average_of(name)
    fit(Net(), [average, Hook("on_train_batch_start", grow_copies, epoch=3)])


@pytest.mark.skipif("EMAWeightAveraging" not in RULES, reason="new in lightning 2.6")
@pytest.mark.parametrize("hook", ["on_validation_epoch_start", "on_validation_batch_end", "on_validation_end"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_growth_in_validation_while_the_module_holds_the_average(hook, order):
    class Validated(Grows):
        def validation_step(self, batch, batch_idx):
            return None

        def val_dataloader(self):
            return loader(1, shuffle=False)

    net, average, by_hand = Validated(), average_of("EMAWeightAveraging"), ByHand("EMAWeightAveraging")
    grow, match = Hook(hook, Grows.insert_neck), CopiesMatch(average)
    pair = [average, by_hand, match]
    fit(net, [grow, *pair] if order == "before" else [*pair, grow])
    assert match.seen[-1] == 1
    for name, tensor in tensors(net).items():
        assert torch.equal(tensor, by_hand.averages[tensor]), name


def test_batch_norm_after_the_last_epoch():
    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.body[4] = nn.BatchNorm1d(8)
            self.body[2].p = 0.0

        @growth()
        def add_normed(self):
            self.necks.append(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))

    def look(net):  # Lightning's last batch makes one more optimizer step
        assert_same(dict(net.named_parameters()), dict(copy_in(average).named_parameters()))
        by_hand.append(deepcopy(net))
        update_bn(loader(shuffle=False), by_hand[0])

    net, average, by_hand = Normed(), average_of("StochasticWeightAveraging"), []
    growths = [GrowEvery("add_normed", 2, limit=2), GrowEvery("add_patch", 6, "step", limit=2, arguments={"at": 1})]
    ours = [average, *growths, *example_factors(), CopiesMatch(average), Hook("on_train_epoch_start", look, EPOCHS)]
    fit(net, ours, EPOCHS, data=loader(shuffle=False))
    assert len(net.growth_log) == 4
    assert_same(dict(net.named_buffers()), dict(by_hand[0].named_buffers()))


@NAMES
def test_entries_go_with_a_tensor_that_changes_its_shape(name):
    def look(net):
        copy = copy_in(average)
        with torch.no_grad():
            for tensor in copy.parameters():
                tensor.uniform_()
        before = deepcopy(copy.patches[0])
        net.widen(6)
        copy = copy_in(average)
        (first, _, second), (live, _, _) = copy.patches[0], net.patches[0]
        assert torch.equal(first.weight, torch.cat([before[0].weight, live.weight[4:]]))
        assert torch.equal(first.bias, torch.cat([before[0].bias, live.bias[4:]]))
        assert torch.equal(second.weight[:, :4], before[2].weight)
        assert torch.equal(second.bias, before[2].bias)  # a new tensor of the same shape
        before = deepcopy(copy.patches[0])
        net.prune([1, 2, 5])
        copy = copy_in(average)
        assert torch.equal(copy.patches[0][0].weight, before[0].weight[[1, 2, 5]])
        assert torch.equal(copy.patches[0][2].weight, before[2].weight[:, [1, 2, 5]])
        net.add_patch(at=1)
        before = deepcopy(copy_in(average).patches[1])
        net.drop()
        assert_same(weights(copy_in(average).patches[0]), weights(before))

    average = average_of(name)
    fit(Grows(), [average, Hook("on_train_epoch_start", look), CopiesMatch(average)])


@NAMES
def test_buffers_that_are_made_anew(name):
    class Counts(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("same", torch.zeros(2))
            self.register_buffer("longer", torch.zeros(2))

        @growth()
        def count_more(self):
            self.necks.append(nn.Linear(8, 8))
            self.same, self.longer = torch.rand(2), torch.rand(3)

    def look(net):
        copy = copy_in(average)
        copy.same.fill_(5)
        net.count_more()
        copy = copy_in(average)
        assert copy.same.tolist() == [5, 5]
        assert copy.longer.tolist() == net.longer.tolist()
        assert copy.longer.data_ptr() != net.longer.data_ptr()

    average = average_of(name)
    fit(Counts(), [average, Hook("on_train_epoch_start", look)])


@NAMES
def test_averages_of_either_lightning(name):
    results = []
    arguments = ARGUMENTS[name] | ({"swa_epoch_start": 1} if name.startswith("Stochastic") else {})
    for package, pl in ((structurenet_pl, lightning.pytorch), (twin, pytorch_lightning)):
        average = getattr(pl.callbacks, name)(**arguments)
        net, _ = namespace_worker.train(package, pl, package.GrowableModule, [average])
        assert copy_in(average).growth_log == net.growth_log != ()
        results.append(weights(net))
    assert_same(*results)


class Measured(Net):
    """Its growth depends on its weights, and keeps its function where that can be."""

    def __init__(self):
        super().__init__()
        self.calls, self.losses, self.factor = 0, [], 1.0
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.body = nn.Sequential(net, nn.Linear(8, 8))

    @property
    def net(self):
        return self.body[0]

    def training_step(self, batch, batch_idx):
        self.losses.append(super().training_step(batch, batch_idx))  # with its graph, as in many projects
        return self.losses[-1]

    @growth()
    def keep_the_largest(self):
        self.calls += 1
        self.factor = 2.0
        first, _, _, second, _ = self.net
        keep = first.weight.norm(dim=1).topk(6 + self.calls).indices.sort().values.tolist()
        first.weight = came_from(nn.Parameter(first.weight.detach()[keep]), keep)
        first.bias = came_from(nn.Parameter(first.bias.detach()[keep]), keep)
        second.weight = came_from(nn.Parameter(second.weight.detach()[:, keep]), keep, dim=1)
        self.net[1] = nn.BatchNorm1d(len(keep))

    @growth()
    def drop_what_is_small(self):
        keep = (self.net[3].weight.norm(dim=0) > self.net[3].weight.norm(dim=0).median()).nonzero().flatten().tolist()
        self.net[0].weight = came_from(nn.Parameter(self.net[0].weight.detach()[keep]), keep)
        self.net[0].bias = came_from(nn.Parameter(self.net[0].bias.detach()[keep]), keep)
        self.net[3].weight = came_from(nn.Parameter(self.net[3].weight.detach()[:, keep]), keep, dim=1)
        self.net[1] = nn.BatchNorm1d(len(keep))

    @growth()
    def wider(self, noise: float = 0.0, scheme: str = "copy", rescale: bool = False):
        widen(self.net[0], self.net[3], 13, self.net[1], noise, "zero" if scheme == "pair" else scheme, rescale)
        widen(self.net[3], self.body[1], 12, None, noise, scheme, rescale)


def scrambled(copy):
    """Far from the module, as an average may be."""
    with torch.no_grad():
        for tensor in tensors(copy).values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1)
    return copy.double().eval()


@pytest.mark.filterwarnings("ignore:growth method .* has read values of tensors")
@NAMES
def test_a_growth_method_is_called_once_and_what_it_chose_holds_for_the_average(name):
    def look(net):
        copy = scrambled(copy_in(average))
        first, before = copy.net[0].weight.clone(), net.net[0].weight.clone()
        net.keep_the_largest()
        positions = [int((before == row).all(1).nonzero()) for row in net.net[0].weight]
        assert torch.equal(copy_in(average).net[0].weight, first[positions])
        assert (net.calls, copy_in(average).calls, copy_in(average).factor) == (1, 1, 2.0)
        net.drop_what_is_small()  # of a size that differs between module and average
        assert copy_in(average).net[0].weight.shape == net.net[0].weight.shape
        assert [loss.requires_grad for loss in copy_in(average).losses] == [False] * len(net.losses)

    average = average_of(name)
    fit(Measured(), [average, Hook("on_train_epoch_start", look)])


@pytest.mark.parametrize("rescale", [False, True], ids=["", "rescaled"])
@pytest.mark.parametrize("scheme", ["copy", "zero", "pair"])
@NAMES
def test_the_average_computes_what_it_did_when_a_layer_is_widened(name, scheme, rescale):
    def look(net):
        copy = scrambled(copy_in(average))
        x = torch.rand(5, 6, dtype=torch.float64)
        before, live = copy(x), net.eval()(x)
        net.wider(scheme=scheme, rescale=rescale)
        copy = copy_in(average)
        assert [layer.out_features for layer in (copy.net[0], copy.net[3])] == [13, 12]
        if scheme != "copy":  # then new units are of no old unit, so they start at their values in the module
            of_copy, of_net = tensors(copy), tensors(net)
            for key in ("0.weight", "0.bias", "1.weight", "1.running_mean", "3.bias"):
                assert torch.equal(of_copy[f"body.0.{key}"][8:], of_net[f"body.0.{key}"][8:])
        # to rounding: sums of more terms
        torch.testing.assert_close(copy(x), before, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(net(x), live, rtol=1e-12, atol=1e-12)
        assert copy.training == copy.net[0].training is False
        assert copy.net[1].running_mean.data_ptr() != net.net[1].running_mean.data_ptr()
        assert not any("_copying" in vars(tensor) for tensor in [*tensors(net).values(), *tensors(copy).values()])
        net.train()

    average = average_of(name)
    fit(Measured(), [average, Hook("on_train_epoch_start", look)], precision="64-true")


def test_noise_on_copied_units_is_the_same_in_the_average():
    def look(net):
        copy = scrambled(copy_in(average))
        old, added = copy.net[0].weight.clone(), net.net[0].weight.detach().clone()
        torch.manual_seed(3)
        net.wider(noise=0.1)
        source = torch.cat([torch.arange(8), torch.randint(8, (5,), generator=torch.Generator().manual_seed(3))])
        added = net.net[0].weight - added[source]
        assert (added[8:] != 0).all()
        torch.testing.assert_close(copy_in(average).net[0].weight, old[source] + added, rtol=1e-12, atol=1e-12)

    average = average_of("StochasticWeightAveraging")
    fit(Measured(), [average, Hook("on_train_epoch_start", look)], precision="64-true")


class Stubborn(nn.Module):
    """Copies itself in a way of its own, as scripted modules do."""

    def __init__(self, size):
        super().__init__()
        self.size, self.linear = size, nn.Linear(size, size)

    def forward(self, x):
        return self.linear(x)

    def __deepcopy__(self, memo):
        copied = Stubborn(self.size)
        copied.load_state_dict(self.state_dict())
        return copied


class Tied(Net):
    """Two layers share their weights, and one of them is widened alone; another copies itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        self.second.weight = self.first.weight
        self.stubborn = Stubborn(8)

    def forward(self, x):
        x = self.third(self.second(self.first(self.body(x)).relu()).relu())
        return self.head(self.stubborn(x))

    @growth()
    def wide_second(self):
        widen(self.second, self.third, 11)


@pytest.mark.filterwarnings("ignore:component 'first' shares tensors")
@NAMES
def test_averages_of_tied_weights_and_of_parts_with_copies_of_their_own(name):
    def look(net):
        copy = scrambled(copy_in(average))
        x = torch.rand(5, 6, dtype=torch.float64)
        before, stubborn = copy(x), weights(copy.stubborn)
        net.wide_second()
        copy = copy_in(average)
        assert copy.second.out_features == 11
        torch.testing.assert_close(copy(x), before, rtol=1e-12, atol=1e-12)  # sums of more terms
        assert_same(weights(copy.stubborn), stubborn)
        assert not any("_copying" in vars(tensor) for tensor in tensors(net).values())

    average = average_of(name)
    fit(Tied(), [average, Hook("on_train_epoch_start", look)], precision="64-true")
