"""Checkpoints of grown modules: what is checked before anything is touched, and what a failed load leaves behind."""

import copy
import json
import random
import re
import warnings
import weakref
from collections import deque
from dataclasses import dataclass
from functools import wraps

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint, OnExceptionCheckpoint
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import DataLoader

from helpers import Net, assert_same, fit, loader, weights
from structurenet_pl import Clock, GrowableModule, GrowEvery, Warmup, growth
from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.structure import module_structure
from structurenet_pl.structure.events import dump_log, load_log
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.log_tensors import LOG_KEY

within_an_epoch = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended"
)


class Sizes(Growable):
    """Its sizes are arguments, or depend on data."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 8)])
        self.register_buffer("statistics", torch.arange(8.0))
        self.calls = []

    @growth(role="block")
    def add(self, width: int = 8):
        self.calls.append(width)
        self.blocks.append(nn.Linear(4, width))

    @growth(role="block", depth="at")
    def add_at(self, at: int):
        self.blocks.append(nn.Linear(4, 4))

    @growth()
    def add_what_it_needs(self, width: int | None = None):
        if width is None:
            width = int((self.statistics > 3).sum())
        self.blocks.append(nn.Linear(4, width))
        return {"width": width}

    @growth()
    def forgets_to_say(self):
        self.blocks.append(nn.Linear(4, int((self.statistics > 3).sum())))

    @growth()
    def returns_something_else(self, width: int):
        self.blocks.append(nn.Linear(4, width))
        return {"width": width, "seconds": 0.1}


def edited(state, **changes):
    """The state dict with other facts in the last event of its log."""
    log = json.loads(bytes(state[LOG_KEY].tolist()))
    for key, value in changes.items():
        log[-1][key] = value
    return state | {LOG_KEY: torch.tensor(list(json.dumps(log).encode()), dtype=torch.uint8)}


def everything(net):
    """Objects, values, log and modes of a module."""
    return (
        [(name, tensor) for name, tensor in net.state_dict(keep_vars=True).items() if name != LOG_KEY],
        {name: tensor.clone() for name, tensor in net.state_dict().items()},
        net.growth_log,
        [(part, part.training) for part in net.modules()],
        {key: value for key, value in vars(net).items() if not key.startswith("_")},
    )


def assert_as_before(net, before):
    tensors, values, log, modes, attributes = everything(net)
    assert [(name, id(tensor)) for name, tensor in tensors] == [(name, id(tensor)) for name, tensor in before[0]]
    assert_same(values, before[1])
    assert (log, modes, attributes) == before[2:]


def grown(*calls):
    net = Sizes()
    for method, arguments in calls:
        getattr(net, method)(**arguments)
    return net


def test_a_log_that_asks_for_other_tensors_than_the_file_holds_allocates_nothing():
    state = edited(dict(grown(("add", {})).state_dict()), arguments={"width": 60_000_000_000_000})
    net = Sizes()
    before = everything(net)
    with pytest.raises(
        RuntimeError,
        match=r"a tensor of shape \(60000000000000, 4\), but checkpoint and module have at most 88",
    ):
        net.load_state_dict(state)
    assert_as_before(net, before)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "head"},
        {"depth": 1},
        {"beside": "blocks.1"},
        {"clock": {"step": 0, "epoch": 0, "generation": 7}},
        {"born": ["blocks.9"]},
        {"removed": ["blocks.0"]},
        {"widened": ["blocks.0"]},
    ],
    ids=str,
)
def test_facts_that_the_log_states_are_checked(changes):
    state = edited(dict(grown(("add", {}), ("add_at", {"at": 0})).state_dict()), **changes)
    net = grown(("add", {}))
    before = everything(net)
    with pytest.raises(RuntimeError, match=r"event . of the checkpoint, add_at\(at=0\), has another outcome"):
        net.load_state_dict(state)
    assert_as_before(net, before)


@pytest.mark.parametrize("events", [3, 12])
def test_loading_added_blocks_computes_the_structure_as_often_for_a_long_log_as_for_a_short_one(events, monkeypatch):
    saved = grown(*[("add", {})] * events).state_dict()
    built = []
    build = module_structure.build_structure
    monkeypatch.setattr(module_structure, "build_structure", lambda *args: built.append(args) or build(*args))
    Sizes().load_state_dict(saved)
    assert len(built) == 2  # before the first event, and after the last


def test_neighbours_in_the_log_are_components():
    state = dict(grown(("add", {})).state_dict())
    Sizes().load_state_dict(edited(state, adjacent=["blocks.0.weight"]))  # as patterns of another Trainer split it
    net = Sizes()
    before = everything(net)
    with pytest.raises(RuntimeError, match=r"event 1 .* names the neighbours \['blocks.7'\], expected some of"):
        net.load_state_dict(edited(state, adjacent=["blocks.0", "blocks.7"]))
    assert_as_before(net, before)


class Rebuilt(Growable):
    """What it was founded with is widened, changed, and goes."""

    def __init__(self):
        super().__init__()
        inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.blocks = nn.ModuleList([inner, nn.Linear(4, 4)])
        self.blocks[0][2].weight = self.blocks[0][0].weight
        self.memory = nn.LSTM(4, 3)  # it keeps its parameters in a list, too
        self.head = nn.Linear(4, 2)
        self.blocks[0].register_buffer("table", torch.arange(3.0), persistent=False)
        self.blocks[0].owner = (self,)
        self.norms = [self.blocks[0][1]]

    @growth()
    def widen(self):
        for linear in (self.blocks[0][0], self.blocks[1]):
            linear.weight = nn.Parameter(torch.cat([linear.weight.detach(), torch.zeros(2, 4)]))
            linear.bias = nn.Parameter(torch.cat([linear.bias.detach(), torch.zeros(2)]))
        self.blocks[0][2].weight = self.blocks[0][0].weight

    @growth()
    def drop(self):
        del self.blocks[0], self.memory

    @growth()
    def reshape(self):
        self.head.weight.data = torch.zeros(2, 6)


@pytest.mark.parametrize("calls", [("widen",), ("drop",), ("widen", "drop"), ("reshape", "widen")])
def test_a_grown_module_goes_back_to_what_it_was(calls):
    """With all that was on it, shared with what shared it."""
    net = Rebuilt()
    names = [name for name, _ in net.named_modules()]
    pattern = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.blocks[0][0].weight.no_decay = True
    for _ in range(2):
        for call in calls:
            getattr(net, call)()
        net.load_state_dict(pattern)
        assert_same(dict(net.state_dict()), pattern)
        assert net.growth_log == ()
        assert [name for name, _ in net.named_modules()] == names
        assert net.blocks[0][2].weight is net.blocks[0][0].weight
        assert net.blocks[0][0].weight.no_decay
        assert net.norms[0] is net.blocks[0][1]
        assert torch.equal(net.blocks[0].table, torch.arange(3.0))
        assert net.blocks[0].owner == (net,)
        assert list(map(id, net.memory._flat_weights)) == list(map(id, net.memory.parameters()))
        net.memory(torch.zeros(5, 1, 4))


def test_what_growth_took_away_costs_no_memory():
    """Neither the old values of parameters that were reshaped in place, nor gradients of what was removed."""
    net = Rebuilt()
    founding = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    old = StorageWeakRef(net.head.weight.untyped_storage())
    dropped = list(net.memory.parameters())
    net.reshape()
    net.drop()
    assert old.expired()
    assert {parameter.grad for parameter in dropped} == {None}
    net.load_state_dict(founding)
    assert_same(dict(net.state_dict()), founding)


def test_ties_between_what_goes_and_what_stays_come_back():
    class Tied(Growable):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.body = nn.Linear(4, 4)
            self.decoder.weight = self.encoder.weight
            self.teacher = [nn.Linear(2, 2)]

        @growth()
        def drop(self):
            del self.decoder
            self.teacher.clear()
            self.body = nn.Linear(4, 8)

    net = Tied()
    pattern, teacher = {name: one.clone() for name, one in net.state_dict().items()}, net.teacher[0].weight.clone()
    net.drop()
    net.load_state_dict(pattern)
    assert net.decoder.weight is net.encoder.weight
    assert torch.equal(net.teacher[0].weight, teacher)


def test_roles_follow_the_order_of_patterns():
    class Reordered(Sizes):
        first = "blocks.*"

        def configure_components(self):
            roles = {"blocks.*": "body", "blocks.0": "stem"}
            return {self.first: roles.pop(self.first)} | roles

    net = Reordered()
    net.add()
    assert net.components["blocks.0"].role == "body"
    net.first = "blocks.0"
    assert net.components["blocks.0"].role == "stem"


def test_what_is_left_to_another_but_for_what_it_shared_is_removed():
    class Fuses(Growable):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 3, bias=False)
            self.a = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3)])
            self.head = nn.Linear(3, 2)

        @growth()
        def fuse(self):
            self.a[0].bias = self.a[1].bias
            del self.a[1]

        @growth()
        def add(self):
            self.a.append(nn.Linear(3, 3))

    net = Fuses()
    for method in ("fuse", "add", "fuse"):
        before = set(net.components)
        getattr(net, method)()
        assert set(net.growth_log[-1].removed) == before - set(net.components)
    fresh = Fuses()
    fresh.load_state_dict(net.state_dict())
    assert list(fresh.components) == list(net.components)


def test_operators_of_higher_order_run_in_a_growth_method():
    class Attends(Sizes):
        @growth()
        def add(self):
            self.blocks.append(nn.Linear(4, 8))
            torch.cond(torch.tensor(True), lambda x: x + 1, lambda x: x - 1, (torch.zeros(2),))

    net, fresh = Attends(), Attends()
    net.add()
    fresh.load_state_dict(net.state_dict())
    assert fresh.growth_log == net.growth_log


def missing(state):
    return {key: value for key, value in state.items() if key != "blocks.0.bias"}


def misshapen(state):
    return state | {"blocks.0.bias": torch.ones(9)}


def unknown(state):
    return state | {"blocks.7.bias": torch.ones(9)}


@pytest.mark.parametrize("spoil", [missing, misshapen, unknown])
@pytest.mark.parametrize("start", [(), (("add", {}),)], ids=["ungrown", "grown"])
def test_a_load_that_fails_leaves_the_module_as_it_was(start, spoil):
    state = spoil(dict(grown(("add", {}), ("add", {"width": 3})).state_dict()))
    net = grown(*start).eval()
    net.blocks[0].train()
    before = everything(net)
    with pytest.raises(RuntimeError, match=r"blocks\.[07]\.bias"):
        net.load_state_dict(state)
    assert_as_before(net, before)
    net.load_state_dict(grown(("add", {}), ("add", {"width": 5})).state_dict())
    assert len(net.growth_log) == 2


def test_going_back_that_fails_leaves_the_module_as_it_was():
    small = Sizes()
    net = grown(("add", {}), ("add", {"width": 3}))
    before = everything(net)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict(unknown(dict(small.state_dict())))
    assert_as_before(net, before)
    net.load_state_dict(small.state_dict())  # and it can still go back
    assert net.growth_log == ()


def test_decisions_by_data_are_in_the_log():
    net = grown(("add_what_it_needs", {}))
    assert net.growth_log[0].arguments == {"width": 4}
    fresh = Sizes()
    fresh.statistics += 5  # by which it would decide otherwise
    fresh.load_state_dict(net.state_dict())
    assert fresh.growth_log == net.growth_log
    assert fresh.blocks[1].out_features == 4


def test_decisions_by_data_that_are_not_in_the_log_end_in_an_error_that_says_so():
    with pytest.warns(UserWarning, match=r"'forgets_to_say' has read values of tensors. .* return it"):
        state = grown(("forgets_to_say", {})).state_dict()
    net = Sizes()
    net.statistics += 5
    before = everything(net)
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks.1.weight"):
        net.load_state_dict(state)
    assert_as_before(net, before)


def chosen_by_position(self):
    self.blocks.append(nn.Linear(4, 4))
    self.blocks[1].weight.data[:, [0, 1]] = self.blocks[0].weight.data[self.statistics.topk(4).indices][:, :2]


def by_mask(self):
    self.blocks.append(nn.Linear(4, len(self.statistics[self.statistics > 3])))


def says_that_no_size_depends_on_it(self):
    self.blocks.append(nn.Linear(4, 4))
    nn.init.constant_(self.blocks[1].bias, float(self.statistics.mean()))
    return {}


@pytest.mark.parametrize(
    ("method", "warns"), [(chosen_by_position, False), (by_mask, True), (says_that_no_size_depends_on_it, False)]
)
def test_only_sizes_that_may_depend_on_data_are_warned_of(method, warns):
    net = type("Grows", (Sizes,), {"grow": growth()(method)})()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.grow()
    assert ["has read values of tensors" in str(one.message) for one in caught] == [True] * warns


def test_a_decision_beside_other_values_is_refused():
    net = Sizes()
    before = everything(net)
    with pytest.raises(ValueError, match=r"returned values .* also for \['seconds'\], which are none"):
        net.returns_something_else(width=2)
    assert_as_before(net, before)


def test_a_decision_that_cannot_be_stored_has_not_been():
    class Bad(Sizes):
        @growth()
        def decide(self, width=None):
            self.blocks.append(nn.Linear(4, 4))
            return {"width": torch.tensor(4)}

    net = Bad()
    before = everything(net)
    with pytest.raises(TypeError, match=r"decide\(\) returned width=.* got tensor\(4\)"):
        net.decide()
    assert_as_before(net, before)


def test_without_strict_a_grown_module_stays_grown():
    base, net = Sizes(), grown(("add", {}))
    newborn = net.blocks[1].weight.clone()
    net.load_state_dict(base.state_dict(), strict=False)
    assert len(net.growth_log) == 1
    assert torch.equal(net.blocks[0].weight, base.blocks[0].weight)
    assert torch.equal(net.blocks[1].weight, newborn)
    net.load_state_dict(base.state_dict())
    assert net.growth_log == ()


@pytest.mark.parametrize("strict", [True, False])
def test_the_trainer_takes_a_grown_module_back_to_the_best_checkpoint(strict, tmp_path):
    class Tested(Net):
        strict_loading = strict

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))  # the first is the best

        test_step = Net.training_step

    save = ModelCheckpoint(tmp_path, monitor="val_loss")
    net = Tested()
    grow, data = GrowEvery("add_neck", 2, limit=1), loader(1, shuffle=False)
    trainer = fit(net, [save, grow], validation=data, enable_checkpointing=True)
    assert len(net.growth_log) == 1
    best = torch.load(save.best_model_path, weights_only=True)["state_dict"]
    trainer.test(net, data, ckpt_path="best", verbose=False)
    assert net.growth_log == ()
    assert_same(weights(net), {key: value for key, value in best.items() if key != LOG_KEY})


def test_a_checkpoint_of_the_first_fit_loads_after_a_second(tmp_path):
    net = Net()
    trainer = fit(net, [GrowEvery("add_patch", 1, limit=1, arguments={"at": 1})], epochs=3)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    dates = [event.clock for event in net.growth_log]
    fit(net, [GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert net.growth_log[0].clock == Clock(generation=1)
    net.load_state_dict(torch.load(tmp_path / "first.ckpt", weights_only=True)["state_dict"])
    assert [event.clock for event in net.growth_log] == dates == [Clock(4, 1, 1)]


# ------------------------------------------------------------------------------------------------- what leads back


def unwrapping(function):
    def wrapper(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    return wrapper


def wrapping(function):
    return wraps(function)(unwrapping(function))


class Named(Sizes):
    """All that has a name of its own leads back to what was called."""

    grow_by_lambda = growth()(lambda self, width=2: self.blocks.append(nn.Linear(4, width)))

    @growth()
    @wrapping
    def wrapped(self):
        self.blocks.append(nn.Linear(4, 3))

    @growth()
    def __private(self):
        self.blocks.append(nn.Linear(4, 5))

    def grow_privately(self):
        self.__private()

    alias = Sizes.add

    @growth()
    def add(self, width: int = 8):
        super().add(width)
        self.blocks.append(nn.Linear(4, 1))


@pytest.mark.parametrize("name", ["grow_by_lambda", "grow_privately", "wrapped", "add"])
def test_what_was_called_leads_back(name):
    net, fresh = Named(), Named()
    getattr(net, name)()
    fresh.load_state_dict(net.state_dict())
    assert fresh.growth_log == net.growth_log != ()


def test_a_wrapper_without_a_signature_is_refused_when_it_is_marked():
    with pytest.raises(TypeError, match="must name its arguments"):
        growth()(unwrapping(lambda self: None))


def test_what_does_not_lead_back_is_refused_before_it_grows():
    class Overridden(Sizes):
        def add(self, width: int = 8):
            super().add(width)

    class Covered(Sizes):
        @unwrapping
        @growth()
        def cover(self):
            self.blocks.append(nn.Linear(4, 4))

    for net, call in (
        (Overridden(), lambda net: net.add()),
        (Named(), lambda net: net.alias()),  # of a method that has been overridden
        (Named(), lambda net: Sizes.add(net)),
        (Covered(), lambda net: net.cover()),
    ):
        before = everything(net)
        with pytest.raises(TypeError, match=r"not the growth method that was called.*mark an override with @growth"):
            call(net)
        assert_as_before(net, before)


def test_renamed_methods_and_arguments_are_named_with_the_event_and_the_way_out():
    class Renamed(Growable):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 8)])
            self.register_buffer("statistics", torch.arange(8.0))

        @growth(role="block")
        def append(self, width: int):
            self.blocks.append(nn.Linear(4, width))

    class WithOldName(Renamed):
        add = Renamed.append

    class OtherArgument(Renamed):
        @growth(role="block")
        def add(self, size: int):
            self.blocks.append(nn.Linear(4, size))

    state = grown(("add", {"width": 3})).state_dict()
    with pytest.raises(
        RuntimeError, match=r"(?s)event 1 of the checkpoint, add\(width=3\).*no growth method 'add'.*old name"
    ):
        Renamed().load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"(?s)event 1 .*add\(width=3\).*'size'.*the code that wrote it"):
        OtherArgument().load_state_dict(state)
    net = WithOldName()
    net.load_state_dict(state)
    assert net.growth_log == load_log(dump_log(grown(("add", {"width": 3})).growth_log))


def test_a_growth_method_whose_body_has_changed_is_named():
    class WithoutBias(Sizes):
        @growth(role="block")
        def add(self, width: int = 4):
            self.blocks.append(nn.Linear(4, width, bias=False))

    class NeedsMore(Sizes):
        @growth(role="block")
        def add(self, width: int = 4):
            self.blocks.append(nn.Linear(self.not_yet_there, width))

    class Nothing(Sizes):
        @growth(role="block")
        def add(self, width: int = 4):
            """Adds nothing any more."""

    state = grown(("add", {"width": 3})).state_dict()
    changed = "(?s)Loading a checkpoint calls its growth methods again: if these have changed, use .* wrote it"
    for kind, error in {
        WithoutBias: r'(?s)Unexpected key.*"blocks.1.bias".*grown as in the checkpoint, by add\. ',
        NeedsMore: r"event 1 of the checkpoint, add\(width=3\), raised AttributeError: .*not_yet_there",
        Nothing: r"event 1 of the checkpoint, add\(width=3\), raised ValueError: .*'add' changed no parameters",
    }.items():
        net = kind()
        with pytest.raises(RuntimeError, match=error) as raised:
            net.load_state_dict(state)
        assert re.search(changed, str(raised.value))
        assert net.growth_log == ()


def test_torch_speaks_for_itself_where_nothing_is_replayed():
    state = Sizes().state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key") as raised:
        Sizes().load_state_dict(state | {"more": torch.ones(1)})
    assert "growth methods" not in str(raised.value)


def test_a_checkpoint_of_a_checkpoint_is_the_same():
    net = Named()
    net.load_state_dict(grown(("add_what_it_needs", {})).state_dict())
    other = Named()
    other.load_state_dict(copy.deepcopy(net).state_dict())
    assert other.growth_log == net.growth_log


# ------------------------------------------------------------------------------------------------- what belongs to it


@pytest.mark.parametrize("cast", [lambda log: log.half(), lambda log: log.bfloat16(), lambda log: (log + log) / 2])
def test_state_dicts_that_were_cast_or_averaged_load(cast):
    net = grown(("add", {"width": 3}))
    state = net.state_dict()
    fresh = Sizes()
    fresh.load_state_dict({key: cast(value) if key == LOG_KEY else value for key, value in state.items()})
    assert fresh.growth_log == net.growth_log


def test_nan_is_refused():
    with pytest.raises(ValueError, match=r"add\(width=\.\.\.\) got nan, which is equal to nothing"):
        Sizes().add(float("nan"))


class Asks(Callback):
    """Asks for growth in the middle of an accumulation, and saves before that is over."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0 and batch_idx == 0 and not trainer.fit_loop.restarting:
            pl_module.add_patch(at=1)
            assert pl_module.growth_log == ()
            trainer.save_checkpoint(self.path)


@within_an_epoch
def test_growth_that_waits_is_in_the_checkpoint(tmp_path):
    whole = Net()
    fit(whole, [Asks(tmp_path / "waits.ckpt")], epochs=1, accumulate_grad_batches=3, data=loader(6))
    saved = torch.load(tmp_path / "waits.ckpt", weights_only=True)
    assert LOG_KEY not in saved["state_dict"]
    resumed = Net()
    fit(resumed, epochs=1, accumulate_grad_batches=3, data=loader(6), ckpt_path=tmp_path / "waits.ckpt")
    assert [event.method for event in resumed.growth_log] == [event.method for event in whole.growth_log] != []
    assert resumed.growth_log[0].arguments == {"at": 1, "inner": 4}


def test_other_arguments_of_a_trigger_after_a_resume_do_not_grow_twice(tmp_path):
    def start(at, epochs, ckpt_path=None):
        net = Net()
        trigger = GrowEvery("add_patch", 2, arguments={"at": at})
        fit(net, [trigger], epochs=epochs, ckpt_path=ckpt_path).save_checkpoint(tmp_path / "last.ckpt")
        return [(event.arguments["at"], event.clock.epoch) for event in net.growth_log]

    assert start(0, 2) == [(0, 2)]
    assert start(1, 4, tmp_path / "last.ckpt") == [(0, 2), (1, 4)]


def test_fabric_is_refused():
    class Grows(GrowableModule):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4)])

        @growth()
        def add(self):
            self.blocks.append(nn.Linear(4, 4))

    net = Grows()
    Fabric(accelerator="cpu", devices=1).setup(net)
    with pytest.raises(MisconfigurationException, match=r"Fabric has no callbacks.*grow before fabric.setup\(\)"):
        net.add()
    assert net.growth_log == ()


# ------------------------------------------------------------------------------------------------- the way back


@dataclass
class Notes:
    """What a module may keep beside its tensors."""

    lines: list


class Keeps(Sizes):
    """Holds all kinds of things, and a growth method that changes them before it raises."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.queue, self.notes, self.pair = deque([1, 2], maxlen=3), Notes([1]), ([1], {2})
        self.itself = {"one": 1}
        self.itself["itself"] = self.itself

    @growth()
    def fail(self):
        self.blocks.append(nn.Linear(4, 4))
        self.norm.running_mean.data = torch.ones(11)
        self.norm.eval()
        self.blocks[0].weight.register_hook(lambda gradient: gradient * 0)
        self.queue.append(3)
        self.queue.append(4)
        self.notes.lines.append(2)
        self.notes.more = True
        self.pair[0].append(5)
        self.pair[1].add(6)
        self.itself["two"] = 2
        raise OSError("out of luck")


def test_what_a_growth_that_raises_has_touched_is_put_back():
    net = Keeps()
    with pytest.raises(OSError, match="out of luck"):
        net.fail()
    assert net.norm.running_mean.shape == (4,)
    assert net.norm.training
    assert (list(net.queue), net.queue.maxlen, net.notes, net.pair) == ([1, 2], 3, Notes([1]), ([1], {2}))
    assert vars(net.notes) == {"lines": [1]}
    assert net.itself.keys() == {"one", "itself"}
    assert net.itself["itself"] is net.itself
    net.blocks[0](torch.ones(1, 4)).sum().backward()
    assert net.blocks[0].weight.grad.abs().sum() > 0
    net.add()
    assert len(net.growth_log) == 1


# ------------------------------------------------------------------------------------------------- lazy founders


class Lazy(GrowableModule):
    """Its first layer has no shape before the first batch."""

    def __init__(self):
        super().__init__()
        self.body, self.necks, self.head = nn.LazyLinear(8), nn.ModuleList(), nn.Linear(8, 3)

    @growth(role="neck")
    def add_neck(self):
        self.necks.append(nn.Linear(8, 8))

    def forward(self, x):
        x = self.body(x)
        for neck in self.necks:
            x = neck(x).relu()
        return self.head(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("run_first", [True, False])
def test_lazy_founders_grow_and_load_before_the_first_batch(run_first):
    net, fresh = Lazy(), Lazy()
    net.add_neck()
    assert net.growth_log[0].parameters == (27, 99)
    if run_first:
        net(torch.ones(1, 6))
    fresh.load_state_dict(net.state_dict())
    assert fresh.growth_log == net.growth_log
    net.load_state_dict(fresh.state_dict())
    if run_first:
        assert torch.equal(fresh(torch.ones(2, 6)), net(torch.ones(2, 6)))


def test_a_run_with_lazy_founders_is_resumed_bit_for_bit(tmp_path):
    def start(epochs, ckpt_path=None):
        torch.manual_seed(1)
        net, grow = Lazy(), GrowEvery("add_neck", 1, limit=2)
        fit(net, [grow], epochs, ckpt_path, loader(shuffle=False)).save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return net

    whole = start(4)
    start(2)
    resumed = start(4, tmp_path / "2.ckpt")
    assert len(whole.growth_log) == 2
    assert resumed.growth_log == whole.growth_log
    assert_same(weights(resumed), weights(whole))


# ------------------------------------------------------------------------------------------------- what attacks showed


@dataclass(slots=True)
class Slots:
    """A dataclass without a dict."""

    width: int = 3


class Stubborn(dict):
    """A dict that does not let itself be updated, as outputs of models in transformers."""

    def update(self, *args, **kwargs):
        raise NotImplementedError

    clear = update


class Odd(Sizes):
    """Holds what is hard to put back, and loads old layouts by a hook."""

    def __init__(self):
        super().__init__()
        self.config, self.output, self.me = Slots(), Stubborn(a=1), weakref.ref(self)
        self.build = {"linear": lambda width: self.blocks.append(nn.Linear(4, width))}
        self.register_buffer("wide", torch.ones(1).expand(8), persistent=False)
        self.state = torch.ones(2, requires_grad=True) * 2
        self.register_load_state_dict_pre_hook(flatten)

    @growth(role="block")
    def add_by_reference(self, width: int):
        self.build["linear"](width)
        self.me().blocks.append(nn.Linear(4, width))

    @growth()
    def fail(self):
        self.blocks.append(nn.Linear(4, 4))
        self.output["b"] = 2
        self.blocks[0].weight.register_post_accumulate_grad_hook(lambda weight: self.calls.append("hook"))
        raise OSError("out of luck")


def flatten(module, state_dict, prefix, *args):
    for name, value in state_dict.items():
        state_dict[name] = value.flatten(1) if value.ndim == 4 else value


def test_modules_that_are_hard_to_copy_and_to_put_back():
    net = Odd()
    with pytest.raises(OSError, match="out of luck"):
        net.fail()
    assert (len(net.blocks), dict(net.output)) == (1, {"a": 1})
    net.blocks[0](torch.ones(1, 4)).sum().backward()
    assert net.calls == []
    net.add_by_reference(3)
    state = {name: value[..., None, None] if "weight" in name else value for name, value in net.state_dict().items()}
    fresh = Odd()
    fresh.load_state_dict(state)
    assert len(fresh.blocks) == 3
    assert torch.equal(fresh.blocks[2].weight, net.blocks[2].weight)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fresh.load_state_dict(unknown(state))
    fresh.load_state_dict({name: value for name, value in state.items() if name != LOG_KEY})  # as averages are kept
    assert len(fresh.growth_log) == 1


def test_random_numbers_are_left_as_they_are_whatever_happens():
    class Draws(Sizes):
        @growth()
        def draw(self, fails: bool = False):
            random.random(), np.random.rand(), torch.rand(1)
            self.blocks.append(nn.Linear(4, 4))

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    net, fresh, other = Draws(), Draws(), Draws()
    with pytest.warns(UserWarning, match="'draw' has drawn random numbers of Python or NumPy. .* return it"):
        net.draw()
    before = states()
    fresh.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match="has another outcome"):
        other.load_state_dict(edited(dict(net.state_dict()), born=["nobody"]))
    assert states() == before


class Both(Callback):
    """Asks for two growths in one batch, and saves when the first has been."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0 and batch_idx == 0 and not trainer.fit_loop.restarting:
            pl_module.add_patch(at=1)
            pl_module.add_neck()

    def on_growth(self, trainer, pl_module, event):
        if len(pl_module.growth_log) == 1:
            trainer.save_checkpoint(self.path)


class ByItself(Net):
    """Asks for growth in its own hooks, in which no callback has a say."""

    lr, batch_size = 0.1, 8

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    def train_dataloader(self):
        return DataLoader(loader(8).dataset, batch_size=self.batch_size)

    def on_train_batch_end(self, *args):
        if self.trainer.global_step >= 2 and not self.growth_log:
            self.add_neck()


def quiet_trainer(callbacks):
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, **dict.fromkeys(off, False))


TUNERS = {
    "lr": (LearningRateFinder, {"num_training_steps": 6, "early_stop_threshold": None}),
    "batch size": (BatchSizeFinder, {"max_trials": 2, "steps_per_trial": 3, "init_val": 4}),
}


@pytest.mark.parametrize("kind", TUNERS)
@pytest.mark.filterwarnings("ignore:.*add_neck.* was not carried out")
@pytest.mark.filterwarnings("ignore:Failed to compute suggestion")
def test_the_tuner_leaves_a_module_that_grows_by_itself_as_it_was(kind):
    finder, options = TUNERS[kind]
    seen = []

    class Tuned(finder):
        def on_fit_start(self, trainer, module):
            before = weights(module)
            super().on_fit_start(trainer, module)
            assert_same(weights(module), before)
            seen.append(module.growth_log)

    net = ByItself()
    quiet_trainer([Warmup(), Tuned(**options)]).fit(net)
    assert seen == [()]
    assert [event.method for event in net.growth_log] == ["add_neck"]  # in the fit itself
    assert net.trainer.optimizers[0].state[net.necks[0].weight]["momentum_buffer"].any()


def test_what_the_tuner_keeps_from_growing_is_said():
    with pytest.warns(UserWarning, match=r"add_neck\(\) was not carried out: the tuner"):
        quiet_trainer([LearningRateFinder(num_training_steps=6, early_stop_threshold=None)]).fit(ByItself())


@within_an_epoch
def test_what_waits_behind_a_growth_is_in_a_checkpoint_written_at_it(tmp_path):
    whole, resumed = Net(), Net()
    options = {"epochs": 1, "accumulate_grad_batches": 3, "data": loader(6)}
    fit(whole, [Both(tmp_path / "first.ckpt")], **options)
    fit(resumed, ckpt_path=tmp_path / "first.ckpt", **options)
    assert [event.method for event in whole.growth_log] == ["add_patch", "add_neck"]
    assert [event.method for event in resumed.growth_log] == ["add_patch", "add_neck"]


@within_an_epoch
@pytest.mark.filterwarnings("ignore:.*(was called without a model|there is no last checkpoint)")
def test_growth_that_waits_is_in_the_checkpoint_of_an_exception(tmp_path):
    class Breaks(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                pl_module.add_neck()
            if batch_idx == 1:
                raise OSError("out of luck")

    options = {"epochs": 1, "accumulate_grad_batches": 3, "data": loader(6)}
    saver, net = OnExceptionCheckpoint(tmp_path, "broken"), Net()
    with pytest.raises(OSError, match="out of luck"):
        fit(Net(), [Breaks(), saver], enable_checkpointing=True, **options)
    fit(net, ckpt_path=tmp_path / "broken.ckpt", **options)
    assert [event.method for event in net.growth_log] == ["add_neck"]


def test_a_module_does_not_grow_past_its_optimizers_by_loading():
    source = Net()
    source.add_neck()

    class Loads(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            before = weights(pl_module)
            with pytest.raises(
                RuntimeError, match=r"further than the module, by 1 event.* from add_neck\(\) on.*before"
            ):
                pl_module.load_state_dict(source.state_dict())
            assert_same(weights(pl_module), before)

    net = Net()
    fit(net, [Loads()], epochs=1)
    assert net.growth_log == ()


def test_parts_that_grow_by_themselves_grow_in_a_growth_of_the_whole(tmp_path):
    class Part(Growable):
        def __init__(self):
            super().__init__()
            self.layers, self.heard = nn.ModuleList([nn.Linear(8, 8)]), 0

        def on_growth(self, event):
            self.heard += 1

        @growth()
        def deepen(self):
            self.layers.append(nn.Linear(8, 8))

    class Whole(Net):
        def __init__(self):
            super().__init__()
            self.part = Part()

        @growth(role="part")
        def deepen(self):
            self.part.deepen()

        def forward(self, x):
            for layer in self.part.layers:
                x = torch.cat([x, layer(torch.nn.functional.pad(x, (0, 2)))[:, :0]], 1)
            return super().forward(x)

    net, resumed = Whole(), Whole()
    grow = GrowEvery("deepen", 1, limit=2)
    fit(net, [grow], epochs=3).save_checkpoint(tmp_path / "grown.ckpt")
    assert (len(net.growth_log), len(net.part.growth_log), len(net.part.layers), net.part.heard) == (2, 2, 3, 2)
    fit(resumed, [grow], epochs=4, ckpt_path=tmp_path / "grown.ckpt")
    assert (len(resumed.growth_log), len(resumed.part.growth_log), len(resumed.part.layers)) == (2, 2, 3)


def test_a_part_may_be_called_components(tmp_path):
    class Named(Net):
        def __init__(self):
            super().__init__()
            self.components = nn.ModuleList([nn.Linear(8, 8)])

        @growth()
        def add_component(self):
            self.components.append(nn.Linear(8, 8))

        def forward(self, x):
            x = self.body(x)
            for component in self.components:
                x = component(x)
            return self.head(x)

    net, fresh = Named(), Named()
    fit(net, [GrowEvery("add_component", 1, limit=1)], epochs=2)
    assert net.growth_log[0].born == ("components.1",)
    fresh.load_state_dict(net.state_dict())
    assert len(fresh.components) == 2
