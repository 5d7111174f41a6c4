import copy
import io
import pickle
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from helpers import Half, LRTrace, Net, Plain, assert_same, fit, loader, weights
from structurenet_pl import Clock, GrowableModule, GrowEvery, GrowthMixin, growth
from structurenet_pl.structure.growable import Growable


class Stack(Growable):
    """Grows in all the ways that only add."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.blocks = nn.ModuleList()
        self.count = 0

    @growth(role="new")
    def insert(self, at: int):
        self.net.insert(at, nn.Linear(4, 4))
        self.count += 1

    @growth()
    def add_pair(self):
        self.blocks.extend([nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4)])

    @growth()
    def add_inside(self):
        self.net[0].adapter = nn.Linear(4, 4)

    @growth()
    def add_scale(self):
        self.scale = nn.Parameter(torch.ones(1))

    @growth(depth="beside")
    def add_beside(self, beside: str | int):
        self.blocks.append(nn.Linear(4, 4))

    @growth()
    def add_both(self, at: int):
        self.insert(at)
        self.add_scale()


def test_newborn_is_found_by_comparison_and_logged():
    net = Stack()
    net.add_pair()
    (event,) = net.growth_log
    assert event.method == "add_pair"
    assert event.born == ("blocks.0", "blocks.1")
    assert event.clock == Clock(0, 0, 1)
    assert net.components["blocks.1"].born == Clock(0, 0, 1)
    assert list(net.components) == ["net.0", "net.1", "blocks.0", "blocks.1"]


def test_module_inside_a_component_is_a_component_of_its_own():
    net = Stack()
    net.add_inside()
    assert net.growth_log[0].born == ("net.0.adapter",)
    assert net.components["net.0.adapter"].born.generation == 1
    assert net.components["net.0"].founding


def test_bare_parameter_is_a_component():
    net = Stack()
    net.add_scale()
    assert net.growth_log[0].born == ("scale",)


def test_insertion_keeps_the_names_of_what_moves():
    net = Stack()
    net.insert(1)
    assert net.growth_log[0].born == ("net.1@1",)
    assert net.growth_log[0].moved == {"net.1": "net.2", "net.1@1": "net.1"}
    assert list(net.components) == ["net.0", "net.1@1", "net.1"]
    net.insert(0)
    assert list(net.components) == ["net.0@2", "net.0", "net.1@1", "net.1"]
    assert [component.born.generation for component in net.components.values()] == [2, 0, 1, 0]
    assert [component.depth for component in net.components.values()] == [0, 1, 2, 3]


def test_growth_inside_growth_is_one_event():
    net = Stack()
    net.add_both(at=2)
    assert [event.method for event in net.growth_log] == ["add_both"]
    assert net.growth_log[0].born == ("scale", "net.2")


@pytest.mark.parametrize(("where", "depth"), [(0, 0), (1, 1), (-1, 1), ("net.1", 1)])
def test_explicit_depth(where, depth):
    net = Stack()
    net.add_beside(where)
    assert net.components["blocks.0"].depth == depth


def test_a_patch_stays_beside_what_it_patches():
    net = Stack()
    net.add_beside(1)
    net.insert(0)
    assert net.components["net.1"].depth == 2
    assert net.components["blocks.0"].depth == 2


def test_adjacency_is_fixed_when_it_happens():
    net = Net()
    net.add_patch(at=0)
    net.add_neck()
    assert [event.adjacent for event in net.growth_log] == [("body.0", "body.3"), ("body.4", "head")]


def test_role_of_newborn_by_pattern():
    class Named(Stack):
        def configure_components(self):
            return {"blocks.*": "block"}

    net = Named()
    net.add_pair()
    assert net.components["blocks.0"].role == "block"


def copies(net):
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    fresh = type(net)()
    fresh.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    return {"state dict": fresh, "deepcopy": copy.deepcopy(net), "pickle": pickle.loads(pickle.dumps(net))}


@pytest.mark.parametrize("kind", ["state dict", "deepcopy", "pickle"])
def test_the_grown_network_comes_back(kind):
    net = Stack()
    for grow in (net.add_pair, net.add_inside, lambda: net.insert(1), net.add_scale, lambda: net.add_beside(1)):
        grow()
    other = copies(net)[kind]
    assert other.growth_log == net.growth_log
    assert other.components == net.components
    assert_same(dict(other.state_dict()), dict(net.state_dict()))
    other.add_pair()  # the copy goes its own way
    assert len(net.growth_log) == 5


def test_replay_leaves_random_numbers_as_they_were_and_happens_once():
    net = Stack()
    net.add_pair()
    fresh, state = Stack(), net.state_dict()
    before = torch.get_rng_state()
    fresh.load_state_dict(state)
    fresh.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(fresh.growth_log) == 1


def test_without_growth_the_state_dict_is_that_of_the_plain_module():
    assert list(Net().state_dict()) == list(Plain().state_dict())


def test_nested_growable_module():
    outer = nn.Sequential(Stack(), nn.Linear(4, 4))
    outer[0].insert(1)
    fresh = nn.Sequential(Stack(), nn.Linear(4, 4))
    fresh.load_state_dict(outer.state_dict())
    assert fresh[0].components == outer[0].components


def test_other_history_is_an_error_that_names_the_event():
    one, other = Stack(), Stack()
    one.add_pair()
    other.add_scale()
    with pytest.raises(RuntimeError, match=r"1 is add_pair\(\), the module's is add_scale\(\); they differ in method"):
        other.load_state_dict(one.state_dict())


def test_copy_of_a_grown_module_cannot_go_back_to_a_smaller_checkpoint():
    net = Stack()
    net.add_scale()
    small = net.state_dict()
    net.add_pair()
    with pytest.raises(RuntimeError, match=r"ends before event 2, add_pair\(\), and growth cannot be undone in a fit"):
        copy.deepcopy(net).load_state_dict(small)
    net.load_state_dict(small)
    assert len(net.growth_log) == 1


def test_code_that_no_longer_does_what_the_log_says():
    class Before(Stack):
        @growth()
        def change(self):
            self.a = nn.Linear(2, 2)

    class After(Stack):
        @growth()
        def change(self):
            self.b = nn.Linear(2, 2)

    one, other = Before(), After()
    one.change()
    with pytest.raises(RuntimeError, match=r"differ in born: {'born': \('a',\)} in the checkpoint, {'born': \('b',\)}"):
        other.load_state_dict(one.state_dict())
    assert other.growth_log == ()
    assert "b" not in dict(other.named_modules())


class Broken(Stack):
    @growth()
    def fail(self):
        self.net.append(nn.Linear(4, 4))
        self.extra = nn.Linear(4, 4)
        self.count += 1
        del self.net[0]
        raise OSError("out of luck")

    @growth()
    def replace(self):
        self.net[0].weight = nn.Parameter(torch.zeros(2, 2, 2))

    @growth()
    def tear(self):
        self.net[0], self.net[1] = nn.Sequential(self.net[0]), self.net[1]


@pytest.mark.parametrize(("method", "error"), [("fail", OSError), ("replace", ValueError)])
def test_growth_that_raises_leaves_everything_as_it_was(method, error):
    net = Broken()
    net.add_pair()
    state, log, modules = dict(net.state_dict(keep_vars=True)), net.growth_log, dict(net.named_modules())
    with pytest.raises(error):
        getattr(net, method)()
    after = dict(net.state_dict(keep_vars=True))
    assert list(after) == list(state)
    assert all(after[name] is state[name] for name in state if name != "growth_log")
    assert dict(net.named_modules()) == modules
    assert net.growth_log == log
    assert net.count == 0
    net.add_scale()
    assert len(net.growth_log) == 2


def test_wrapping_an_old_module_moves_its_component():
    net = Broken()
    old = net.net[0]
    net.tear()
    assert net.net[0][0] is old
    assert net.components["net.0"].founding
    assert net.growth_log[0].born == ()


@pytest.mark.parametrize("value", [torch.ones(1), nn.Linear(2, 2), object(), {1: 2}, [object()]])
def test_argument_that_cannot_be_stored(value):
    net = Stack()
    with pytest.raises(TypeError, match=r"add_beside\(beside=\.\.\.\).*plain|numbers, strings"):
        net.add_beside(value)
    assert net.growth_log == ()


def test_depth_that_cannot_be():
    net = Stack()
    with pytest.raises(ValueError, match="expected a number or one of the components"):
        net.add_beside("net.7")
    with pytest.raises(ValueError, match="depth -3 is outside a network of 2 depths"):
        net.add_beside(-3)
    with pytest.raises(ValueError, match="depth 99 is outside"):
        net.add_beside(99)
    assert net.growth_log == ()


def test_mixin_needs_no_lightning_base_of_its_own():
    assert not issubclass(GrowthMixin, LightningModule)
    assert issubclass(GrowableModule, LightningModule)


def test_hook_extended_with_super():
    class Extended(Net):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), LRTrace()]

    trainer = fit(Extended(), epochs=1)
    assert any(isinstance(callback, LRTrace) for callback in trainer.callbacks)


# ------------------------------------------------------------------------------------------------------- in a fit


class GrowAt(Callback):
    """Calls add_neck in one hook, once."""

    def __init__(self, hook, epoch=1, batch=1):
        self.seen = []

        def call(trainer, pl_module, *args):
            if trainer.current_epoch == epoch and not trainer.sanity_checking and not self.seen:
                if hook.endswith(("batch_start", "batch_end")) and args[-1] != batch:
                    return
                self.seen.append((trainer.global_step, len(pl_module.growth_log)))
                pl_module.add_neck()
                self.seen.append((trainer.global_step, len(pl_module.growth_log)))

        setattr(self, hook, call)


@pytest.mark.parametrize(
    ("hook", "epoch", "at_once"),
    [
        ("on_train_epoch_start", 1, True),
        ("on_train_batch_start", 1, False),
        ("on_before_optimizer_step", 1, False),
        ("on_train_batch_end", 1, True),
        ("on_validation_epoch_end", 2, True),
        ("on_train_epoch_end", 2, True),
    ],
)
def test_growth_from_any_hook_is_carried_out_and_trains(hook, epoch, at_once):
    net = Net()
    net.validation_step = lambda batch, batch_idx: None
    trigger = GrowAt(hook)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=3, accelerator="cpu", callbacks=[trigger], **options)
    trainer.fit(net, loader(), loader(1, shuffle=False))
    assert (trigger.seen[1][1] == 1) is at_once
    assert len(net.growth_log) == 1
    assert net.components["necks.0"].born.epoch == epoch
    optimizer = trainer.optimizers[0]
    assert all(tensor in optimizer.state for tensor in net.necks.parameters())


def test_growth_inside_a_training_step_waits_for_the_end_of_the_batch():
    class Eager(Net):
        def training_step(self, batch, batch_idx):
            if not self.growth_log and self.global_step == 2:
                assert self.add_neck() is None
                assert not len(self.necks)
            return super().training_step(batch, batch_idx)

    net = Eager()
    fit(net, epochs=1)
    assert net.growth_log[0].clock == Clock(3, 0, 1)


def test_growth_between_accumulated_batches_waits_for_the_update():
    net = Net()
    trigger = GrowAt("on_train_batch_end", batch=0)
    fit(net, [trigger], accumulate_grad_batches=4, data=loader(8))
    assert trigger.seen == [(2, 0), (2, 0)]
    assert net.growth_log[0].clock.step == 3


def test_growth_outside_a_fit_is_logged_at_the_clock_of_the_trainer():
    net = Net()
    trainer = fit(net, epochs=2)
    net.add_neck()
    assert net.growth_log[0].clock == Clock(8, 2, 1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, loader())
    assert trainer.current_epoch == 3
    assert all(tensor in trainer.optimizers[0].state for tensor in net.necks.parameters())


def test_another_run_has_another_clock():
    net = Net()
    fit(net, [GrowEvery("add_neck", 2, limit=1)], epochs=3)
    assert net.growth_log[0].clock == Clock(8, 2, 1)
    fit(net, epochs=1)
    assert net.growth_log[0].clock == Clock(0, 0, 1)


def test_everybody_hears_of_growth():
    heard = []

    class Listener(Callback):
        def on_growth(self, trainer, pl_module, event):
            heard.append((len(trainer.optimizers[0].param_groups), event.born))

    class Listening(Net):
        def on_growth(self, event):
            heard.append(event.born)

    fit(Listening(), [Listener(), GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert heard == [(5, ("necks.0",)), ("necks.0",)]


def test_failure_in_a_fit_leaves_optimizer_and_schedulers_and_the_run_goes_on():
    class Fragile(Net):
        @growth()
        def fail(self):
            self.necks.append(nn.Linear(8, 8))
            raise OSError("out of luck")

        @growth(like="nobody")
        def orphan(self):
            self.necks.append(nn.Linear(8, 8))

        def on_train_epoch_end(self):
            groups = list(self.trainer.optimizers[0].param_groups)
            base_lrs = list(self.trainer.lr_scheduler_configs[0].scheduler.base_lrs)
            for grow, error in ((self.fail, OSError), (self.orphan, ValueError)):
                with pytest.raises(error):
                    grow()
            assert all(one is other for one, other in zip(self.trainer.optimizers[0].param_groups, groups, strict=True))
            assert self.trainer.lr_scheduler_configs[0].scheduler.base_lrs == base_lrs

    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    torch.manual_seed(0)
    fragile = Fragile(scheduler=cosine)
    torch.manual_seed(0)
    calm = Net(scheduler=cosine)
    fit(fragile, epochs=1, data=loader(shuffle=False))
    assert fragile.growth_log == ()
    assert not len(fragile.necks)
    assert_same(weights(fragile).keys(), weights(calm).keys())


def test_newborn_has_the_dtype_of_the_others():
    net = Net().to(torch.bfloat16)
    net.add_neck()
    assert {tensor.dtype for tensor in net.parameters()} == {torch.bfloat16}


def test_growth_alone_needs_no_other_callback():
    net = Net()
    with warnings.catch_warnings():
        trainer = fit(net, [GrowEvery("add_patch", 1, limit=2, arguments={"at": 1})], epochs=3)
    assert [event.clock for event in net.growth_log] == [Clock(4, 1, 1), Clock(8, 2, 2)]
    assert [group["name"] for group in trainer.optimizers[0].param_groups][-2:] == ["patches.0", "patches.1"]


def test_neighbours_may_be_declared():
    class Far(Net):
        @growth(depth="at", adjacent="beside")
        def bridge(self, at: int, beside: list[str]):
            self.patches.append(nn.Linear(8, 8))

    net = Far()
    net.bridge(at=0, beside=["head", "body.3"])
    assert net.growth_log[0].adjacent == ("body.3", "head")
    with pytest.raises(ValueError, match=r"adjacent names \['tail'\]"):
        net.bridge(at=0, beside=["head", "tail"])
    assert len(net.growth_log) == 1


def test_growth_that_adds_nothing_is_an_error():
    class Forgetful(Stack):
        @growth()
        def grow(self):
            self.plain_list = [nn.Linear(2, 2)]

    net = Forgetful()
    with pytest.raises(ValueError, match=r"'grow' changed no parameters.*not a list"):
        net.grow()
    assert net.growth_log == ()
    assert not hasattr(net, "plain_list")


def test_an_argument_may_have_the_name_of_one_of_ours():
    class Named(Stack):
        @growth()
        def grow(self, module: int, function: int = 2):
            self.more = nn.Linear(module, function)

    net = Named()
    net.grow(module=3)
    other = Named()
    other.load_state_dict(net.state_dict())
    assert other.growth_log[0].arguments == {"module": 3, "function": 2}


@pytest.mark.parametrize("base", [Net, Plain])
def test_parts_added_past_growth_methods_are_warned_of(base):
    class Sly(base):
        necks = ()

        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                self.necks = nn.ModuleList([nn.Linear(8, 8)])

    with pytest.warns(UserWarning, match=r"'necks.0.weight'\] were added during the fit and stand in no optimizer"):
        fit(Sly(), [Half()], epochs=2)
