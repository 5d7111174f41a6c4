"""Habits of projects: kept optimizers, schedulers stepped by hand, callbacks swapped on resume, shared tensors."""

import math
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from helpers import LRTrace, Net, Plain, assert_same, fit, loader, weights
from structurenet_pl import (
    Clock,
    Components,
    DepthDecay,
    GrowableModule,
    GrowEvery,
    LARSScaler,
    LRFactor,
    RoleLR,
    StrataMonitor,
    Warmup,
    explain,
    growth,
)
from structurenet_pl.engine.driver import Driver
from structurenet_pl.optim.param_groups import audit, membership_counts


class Half(LRFactor):
    def factor(self, component, now):
        return 0.5


def groups(trainer):
    return {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}


# ----------------------------------------------------------------------------------------- checkpoints with and without


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
}
SCHEDULERS = {
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3),
    "sequential": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t)) for _ in range(2)],
        [2],
    ),
}


def still(**kwargs):
    """No dropout and no shuffling: random numbers are restored for modules that grow only."""
    torch.manual_seed(0)
    module = Plain(**kwargs)
    module.body[2].p = 0.0
    return module


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("first", ["plain", "ours"])
def test_a_run_is_continued_with_or_without_this_package(tmp_path, optimizer, scheduler, first):
    settings = {"optimizer": OPTIMIZERS[optimizer], "scheduler": SCHEDULERS[scheduler]}
    data = loader(shuffle=False)
    neutral = [RoleLR({"nobody": 1.0}), LARSScaler(1e9, clip=1.0)]  # with groups for tensors of one dimension
    ours, plain = (neutral, []) if first == "ours" else ([], neutral)
    whole = still(**settings)
    fit(whole, epochs=4, data=data)

    trainer = fit(still(**settings), ours, epochs=2, data=data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    continued = still(**settings)
    fit(continued, plain, epochs=4, data=data, ckpt_path=tmp_path / "half.ckpt")
    assert_same(weights(continued), weights(whole))


def test_a_checkpoint_holds_base_lrs_and_the_groups_of_the_user(tmp_path):
    def optimizer(params):
        first, *rest = params
        return torch.optim.SGD([{"params": [first], "name": "mine"}, {"params": rest, "lr": 0.3}], lr=0.1)

    trainer = fit(Plain(optimizer=optimizer), [Half(), LARSScaler()], epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in saved] == [0.1, 0.3]
    assert [group.get("name") for group in saved] == ["mine", None]
    assert [len(group["params"]) for group in saved] == [1, 7]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([Components({"body.0.weight": "w"})], []),
        ([], [Components({"body.0.weight": "w"})]),
        ([], [LARSScaler(1e9, clip=1.0)]),
        ([LARSScaler(1e9, clip=1.0)], []),
    ],
    ids=["less names", "more names", "LARS", "no LARS"],
)
def test_callbacks_may_change_on_resume(tmp_path, before, after):
    growing = [GrowEvery("add_neck", 1, limit=1)]
    trainer = fit(Net(), [Half(), *before, *growing], epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fresh = fit(Net(), [Half(), *after, *growing], epochs=2)
    resumed = fit(Net(), [Half(), *after, *growing], epochs=3, ckpt_path=tmp_path / "half.ckpt")
    assert groups(resumed) == groups(fresh)
    assert set(groups(resumed).values()) == {0.05}


def test_resume_finds_the_groups_of_newborns_by_the_saved_names(tmp_path):
    class Named(Net):
        def configure_optimizers(self):
            return torch.optim.SGD([{"params": self.body.parameters()}, {"params": self.head.parameters()}], lr=0.1)

        @growth(like="body.0")
        def extend(self):
            self.necks.append(nn.Linear(8, 8))

    growing = [GrowEvery("extend", 1, limit=1)]
    trainer = fit(Named(), growing, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(Named(), growing, epochs=3, ckpt_path=tmp_path / "half.ckpt")
    assert list(groups(resumed)) == ["body.0", "body.3", "body.4", "necks.0", "head"]


def test_another_number_of_optimizers_is_refused(tmp_path):
    class Two(Net):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.body, self.head)]

    fit(Net(), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match="the checkpoint has 1 optimizers, configure_optimizers gave 2"):
        fit(Two(), epochs=2, ckpt_path=tmp_path / "one.ckpt")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # both runs write into it
def test_birth_is_the_same_when_resumed_between_validation_and_the_end_of_the_epoch(tmp_path):
    class Validated(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val", 1.0)

        def val_dataloader(self):
            return loader(1, shuffle=False)

    def run(callbacks, epochs, ckpt_path=None):
        net = Validated()
        growing = [GrowEvery("add_neck", 2, limit=1)]
        fit(net, [*growing, *callbacks], epochs, ckpt_path, enable_checkpointing=True, num_sanity_val_steps=0)
        return net.growth_log

    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    whole = run([save], 4)
    assert whole[0].clock == Clock(8, 2, 1)
    assert run([save], 4, tmp_path / "epoch=1.ckpt") == whole


@pytest.mark.filterwarnings("ignore:(The dirpath has changed|You defined a .validation_step)")
@pytest.mark.parametrize("validation", [None, loader(1, shuffle=False)], ids=["alone", "validated"])
def test_a_checkpoint_from_before_the_end_of_an_epoch_is_refused_or_warned_of(validation, tmp_path):
    """Lightning skips the end of the epoch on resume, and with it the growth there."""

    def run(make, path, every, ckpt_path=None):
        save = ModelCheckpoint(path, filename="{step}", save_top_k=-1, every_n_train_steps=every)
        more = {"validation": validation, "data": loader(shuffle=False)}
        fit(make(), [Half(), save], 3, ckpt_path, enable_checkpointing=True, **more)

    class Validated(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0)

    class ValidatedPlain(Plain):
        validation_step = Validated.validation_step

    said = "written after the last batch of epoch 1 and before its validation and its end.*does not divide the number"
    run(Validated, tmp_path / "grows", 4)
    with pytest.raises(MisconfigurationException, match=said):
        run(Validated, tmp_path / "more", 4, tmp_path / "grows" / "step=8.ckpt")
    run(ValidatedPlain, tmp_path / "plain", 4)
    with pytest.warns(UserWarning, match=said):
        run(ValidatedPlain, tmp_path / "other", 4, tmp_path / "plain" / "step=8.ckpt")
    run(Validated, tmp_path / "within", 3)
    with pytest.warns(UserWarning, match="ended before the epoch ended"):  # of Lightning, for a loader without a state
        run(Validated, tmp_path / "again", 3, tmp_path / "within" / "step=6.ckpt")


# ----------------------------------------------------------------------------------------------- optimizers, schedulers


def test_an_optimizer_that_is_kept_from_fit_to_fit_does_not_compound():
    class Keeps(Plain):
        def configure_optimizers(self):
            if not hasattr(self, "kept"):
                self.kept = torch.optim.SGD(self.parameters(), lr=0.1)
            return self.kept

    module = Keeps()
    for callbacks in ([Half()], [Half(), LARSScaler(1e9, clip=1.0)], [Half()]):
        trainer = fit(module, callbacks, epochs=1)
        assert set(groups(trainer).values()) == {0.05}
        assert module.kept.state_dict()["param_groups"][0]["lr"] == 0.1
    assert list(groups(trainer)) == ["body.0", "body.3", "body.4", "head"]


def test_optimizers_replaced_in_the_middle_of_a_fit():
    class Replaces(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.trainer.strategy.setup_optimizers(self.trainer)

    net, record = Replaces(), LRTrace()
    trainer = fit(net, [Half(), GrowEvery("add_neck", 2, limit=1), record], epochs=4)
    assert {value for row in record.rows for value in row.values()} == {0.05}
    assert groups(trainer) == dict.fromkeys(["body.0", "body.3", "body.4", "head", "necks.0"], 0.05)
    assert all(tensor in trainer.optimizers[0].state for tensor in net.necks.parameters())


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_stochastic_weight_averaging(ours_first):
    def lrs(factors):
        record = LRTrace()
        swa = StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=2)
        fit(Plain(), [*factors, swa, record] if ours_first else [swa, *factors, record], epochs=6)
        return [set(row.values()) for row in record.rows]

    alone = lrs([])
    assert len({value for row in alone for value in row}) > 1
    assert lrs([Half()]) == [{0.5 * value for value in row} for row in alone]


def test_schedulers_that_the_module_steps_by_itself():
    def make(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    class ByHand(Net):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            self.scheduler = make(optimizer)
            return optimizer

        def on_train_epoch_end(self):
            self.scheduler.step()

    record, alone = LRTrace(), LRTrace()
    fit(ByHand(), [Half(), GrowEvery("add_neck", 2, limit=1), record], epochs=4)
    fit(Plain(scheduler=make), [alone], epochs=4)
    for row, base in zip(record.rows, alone.rows, strict=True):
        assert set(row.values()) == {base[0] * 0.5}


def test_optimizer_without_lr_may_grow():
    class NoLR(torch.optim.SGD):
        """An optimizer without an lr."""

        def __init__(self, params):
            super().__init__(params, lr=0.1)
            for group in self.param_groups:
                group["lr"] = None

        def step(self, closure):
            closure()

    net = Net(optimizer=NoLR)
    fit(net, [GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert len(net.growth_log) == 1
    with pytest.raises(MisconfigurationException, match="NoLR has no lr"):
        fit(Plain(optimizer=NoLR), [Half()], epochs=1)


def test_lbfgs_and_gradients_are_refused():
    class OneLayer(Plain):
        def __init__(self):
            super().__init__(optimizer=lambda params: torch.optim.LBFGS(list(params)))
            self.body, self.head = nn.Identity(), nn.Linear(6, 3)

    with pytest.raises(MisconfigurationException, match="reads its lr before gradients are known"):
        fit(OneLayer(), [LARSScaler()])


class Adversarial(Net):
    """Two optimizers, stepped by hand one after the other, that share the head."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(3, 1)

    def configure_optimizers(self):
        first = [*self.body.parameters(), *self.head.parameters()]
        second = [*self.critic.parameters(), *self.head.parameters()]
        return [torch.optim.SGD(params, lr=0.1) for params in (first, second)]

    def training_step(self, batch, batch_idx):
        x, _ = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.critic(self(x)).square().mean())
            optimizer.step()

    @growth(like="body.3")
    def extend(self):
        self.necks.append(nn.Linear(8, 8))


def test_two_optimizers_that_share_a_parameter_may_grow():
    net = Adversarial()
    trainer = fit(net, [Half(), GrowEvery("extend", 1, limit=1)], epochs=2)
    names = [[group["name"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    assert names == [["body.0", "body.3", "body.4", "head", "necks.0"], ["critic", "head"]]


def test_every_factor_is_up_to_date_at_each_step_of_each_optimizer():
    class Falling(LRFactor):
        def factor(self, component, now):
            return 1 / (1 + now.clock.step)

    class Check(Callback):
        seen = 0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            driver = Driver.of(trainer)
            table = driver.tables[optimizer]
            lrs = {group["name"]: group["lr"] for group in optimizer.param_groups}
            for name, row in zip(table.matrix.piece_names, table.matrix.values, strict=True):
                factors, slot = dict(zip(driver.factors, row, strict=True)), table.groups.group_infos[name]
                assert factors["Falling"] == 1 / (1 + trainer.global_step)
                assert (factors["LARSScaler"] == 1.0) == slot.is_1d
                assert lrs[name] == 0.1 * math.prod(sorted(factors.values()))
                self.seen += 1

    check = Check()
    fit(Adversarial(), [Falling(), LARSScaler(0.02), check], epochs=2)
    assert check.seen > 50


@pytest.mark.parametrize("every", [2, 3, 4])
def test_both_of_two_optimizers_are_logged(every):
    logger = CSVLogger("logs")
    fit(Adversarial(), [Half(), StrataMonitor()], epochs=3, logger=logger, log_every_n_steps=every)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        header = file.readline().strip().split(",")
    assert {"lr/body.0", "lr/critic", "lr/head"} <= set(header)


def test_parameters_from_outside_the_module_do_not_prevent_a_checkpoint(tmp_path):
    class Foreign(Plain):
        def configure_optimizers(self):
            self.outside = [nn.Parameter(torch.zeros(1))]
            return torch.optim.SGD([*self.parameters(), *self.outside], lr=0.1)

        def on_train_epoch_end(self):
            self.later = [nn.Parameter(torch.zeros(1))]
            self.optimizers().add_param_group({"params": self.later, "lr": 0.7})

    trainer = fit(Foreign(), [Half(), StrataMonitor()], epochs=1, logger=CSVLogger("logs"), log_every_n_steps=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(len(group["params"]), group["lr"]) for group in saved] == [(9, 0.1), (1, 0.7)]


# --------------------------------------------------------------------------------------------------- modules, callbacks


def test_roles_are_assigned_to_a_module_that_has_grown_before_the_fit():
    net = Net()
    net.add_patch(at=0)
    roles = Components({"body.0.weight": "special", "body.0": "pretrained"})
    trainer = fit(net, [roles, RoleLR({"special": 0.1, "pretrained": 0.5})], epochs=1)
    assert net.components["body.0.weight"].role == "special"
    assert net.components["patches.0"].role == "patch"
    assert groups(trainer)["body.0.weight"] == pytest.approx(0.01, rel=1e-15)  # one rounding
    assert groups(trainer)["body.0"] == 0.05


def test_growth_of_a_part_is_refused_in_a_fit_and_allowed_outside():
    class Outer(Plain):
        def __init__(self):
            super().__init__()
            self.inner = Net()

        def on_train_epoch_end(self):
            self.inner.add_neck()

    outer = Outer()
    with pytest.raises(MisconfigurationException, match="let a growth method of the outermost module call it"):
        fit(outer, [Half()], epochs=1)
    outer.inner.add_neck()
    assert len(outer.inner.necks) == 1


def test_a_factor_may_have_a_setup_of_its_own():
    class Ready(Half):
        def setup(self, trainer, pl_module, stage):
            self.stage = stage

    factor = Ready()
    assert set(groups(fit(Plain(), [factor], epochs=1)).values()) == {0.05}
    assert factor.stage == "fit"


def test_a_component_may_move_back_to_its_first_place():
    class Moves(GrowableModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

        @growth()
        def front(self):
            self.body.insert(0, nn.Linear(2, 2))

        @growth()
        def rotate(self):
            first, *rest = self.body
            self.body = nn.Sequential(*rest, first)

    net = Moves()
    first = net.body[0]
    net.front()
    net.rotate()
    assert net.body[0] is first
    assert list(net.components) == ["body.0", "body.1", "body.0@1"]
    fresh = Moves()
    fresh.load_state_dict(net.state_dict())
    assert fresh.components == net.components


def test_rollback_reaches_nested_lists_flags_and_data():
    class Careless(GrowableModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(2, 2)
            self.plan = [[1], {"a": [2]}]

        @growth()
        def fail(self):
            self.plan[0].append(3)
            self.plan[1]["a"].append(4)
            self.body.weight.requires_grad = False
            self.body.weight.data = torch.zeros(3, 3)
            raise OSError("out of luck")

        @growth()
        def widen(self):
            self.body.weight.data = torch.zeros(3, 2)

    net = Careless()
    before = net.body.weight.detach().clone()
    with pytest.raises(OSError, match="out of luck"):
        net.fail()
    assert net.plan == [[1], {"a": [2]}]
    assert net.body.weight.requires_grad
    assert torch.equal(net.body.weight, before)
    net.widen()  # in place, the parameter is the same object
    assert net.growth_log[0].widened == ("body",)
    assert net.body.weight.shape == (3, 2)


def test_newborn_tensors_keep_a_dtype_that_is_not_floating():
    class Indexed(GrowableModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(2, 2, dtype=torch.float64)

        @growth()
        def index(self):
            self.order = nn.Parameter(torch.arange(3), requires_grad=False)

    net = Indexed()
    net.index()
    assert net.order.dtype == torch.int64


def test_growth_under_inference_mode_can_be_trained():
    net = Net().double()
    with torch.inference_mode():
        net.add_neck()
    net(torch.randn(2, 6, dtype=torch.float64)).sum().backward()
    assert net.necks[0].weight.grad is not None


@pytest.mark.parametrize(
    ("hook", "clock"),
    [("on_fit_start", Clock(8, 2, 1)), ("on_train_start", Clock(8, 2, 1)), ("on_train_end", Clock(12, 3, 1))],
)
def test_growth_in_a_second_fit_has_the_clock_of_that_fit(hook, clock):
    class Once(Callback):
        pass

    once, net = Once(), Net()
    trainer = fit(net, [once, Warmup()], epochs=2)
    setattr(once, hook, lambda trainer, pl_module: pl_module.add_neck())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, loader())
    assert net.growth_log[0].clock == clock


# ------------------------------------------------------------------------------------------ what a second review found


def resumed_and_whole(tmp_path, make, callbacks, epochs=4, **kwargs):
    """The optimizer state dicts and lrs of a run resumed half way and of one that never stopped."""
    torch.manual_seed(0)
    fit(make(), callbacks(), epochs=epochs // 2, **kwargs).save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(0)
    whole = fit(make(), callbacks(), epochs=epochs, **kwargs)
    resumed = fit(make(), callbacks(), epochs=epochs, ckpt_path=tmp_path / "half.ckpt", **kwargs)
    return [
        (trainer.optimizers[0].state_dict(), [float(group["lr"]) for group in trainer.optimizers[0].param_groups])
        for trainer in (resumed, whole)
    ]


def test_tensor_lr_is_not_shared_after_resume(tmp_path):
    def make():
        return still(optimizer=lambda params: torch.optim.AdamW(params, lr=torch.tensor(0.01)))

    resumed, whole = resumed_and_whole(tmp_path, make, lambda: [DepthDecay()], data=loader(shuffle=False))
    assert_same(resumed, whole)
    assert len(set(whole[1])) == 4


def test_state_stays_with_its_tensor_where_one_is_from_outside_the_module(tmp_path):
    class Outside(Net):
        def configure_optimizers(self):
            self.outside = [nn.Parameter(torch.ones(3))]
            return torch.optim.Adam([*self.parameters(), *self.outside], lr=0.01)

    def growing():
        return [GrowEvery("add_neck", 1, limit=1), Half()]

    assert_same(*resumed_and_whole(tmp_path, Outside, growing))


@pytest.mark.parametrize("first", ["plain", "ours"])
def test_empty_group_of_the_user_is_kept(tmp_path, first):
    def make():
        def optimizer(params):
            return torch.optim.SGD([{"params": params}, {"params": [], "lr": 0.3}], lr=0.1)

        return still(optimizer=optimizer)

    data = loader(shuffle=False)
    ours = [RoleLR({"nobody": 1.0})]
    whole = make()
    fit(whole, epochs=4, data=data)
    fit(make(), ours if first == "ours" else [], epochs=2, data=data).save_checkpoint(tmp_path / "half.ckpt")
    for callbacks in ([], ours):
        continued = make()
        fit(continued, callbacks, epochs=4, data=data, ckpt_path=tmp_path / "half.ckpt")
        assert_same(weights(continued), weights(whole))


def test_lr_and_weight_decay_written_into_one_group_survive_a_resume(tmp_path):
    class Writes(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                (head,) = [group for group in trainer.optimizers[0].param_groups if group["name"] == "head"]
                head["lr"], head["weight_decay"] = 0.01, 0.3

    def callbacks():
        return [Half(), Writes()]

    with pytest.warns(UserWarning, match="was set to 0.01 from outside"):
        resumed, whole = resumed_and_whole(tmp_path, still, callbacks, data=loader(shuffle=False))
    assert_same(resumed, whole)
    assert whole[1][-1] == 0.005


@pytest.mark.filterwarnings("ignore:the lr of param group")  # the finder writes lrs, and they are the new base
def test_learning_rate_finder():
    class Tunable(Net):
        def __init__(self):
            super().__init__()
            self.lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    finder = LearningRateFinder(num_training_steps=30, attr_name="lr")
    trainer = fit(Tunable(), [finder, Half(), LARSScaler(1e9, clip=1.0)], epochs=1, data=loader(40))
    assert set(groups(trainer).values()) == {0.5 * finder.optimal_lr.suggestion()}


def test_newborn_outside_of_where_has_factor_1():
    net = Net()
    trainer = fit(net, [RoleLR(where="scaffold"), GrowEvery("add_neck", 1, limit=1)], epochs=2)
    assert {entry.group: entry.factors["RoleLR"] for entry in explain(trainer)} == {
        **dict.fromkeys(["body.0", "body.3", "body.4"], 0.1),
        **dict.fromkeys(["necks.0", "head"], 1.0),
    }


def test_rollback_of_newborns_in_the_middle_of_the_groups():
    class Fragile(Net):
        def configure_optimizers(self):
            decay = [tensor for tensor in self.parameters() if tensor.ndim > 1]
            rest = [tensor for tensor in self.parameters() if tensor.ndim <= 1]
            optimizer = torch.optim.SGD([{"params": decay}, {"params": rest, "lr": 0.3}], lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda t: 1.0, lambda t: 0.5])]

        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                (scheduler,) = [config.scheduler for config in self.trainer.lr_scheduler_configs]
                groups, lists = list(self.trainer.optimizers[0].param_groups), dict(vars(scheduler))
                broken = mock.patch(
                    "structurenet_pl.learning_rates.lr_tables.audit", side_effect=RuntimeError("found by the audit")
                )
                with broken, pytest.raises(RuntimeError, match="found by the audit"):
                    self.add_neck()
                now = self.trainer.optimizers[0].param_groups
                assert all(one is other for one, other in zip(now, groups, strict=True))
                assert vars(scheduler) == lists
                self.add_neck()

    net = Fragile()
    trainer = fit(net, [Half()], epochs=2)
    names = [group["name"] for group in trainer.optimizers[0].param_groups]
    assert names.index("head") + 1 == names.index("necks.0") < len(names) - 1
    assert len(net.growth_log) == 1


def test_the_audit_finds_lost_and_doubled_parameters():
    net = Net()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1)]
    expected = membership_counts(optimizers)
    audit(optimizers, expected)
    optimizers[0].param_groups[0]["params"].append(net.head.weight)
    with pytest.raises(RuntimeError, match="lost or doubled"):
        audit(optimizers, expected)
    optimizers[0].param_groups[0]["params"] = list(net.parameters())[1:]
    with pytest.raises(RuntimeError, match="lost or doubled"):
        audit(optimizers, expected)


def test_named_parameters_keep_their_names_through_growth_and_resume(tmp_path):
    class Named(Net):
        def configure_optimizers(self):
            return torch.optim.Adam(self.named_parameters(), lr=0.01)

    def growing():
        return [GrowEvery("add_neck", 1, limit=1), Half()]

    resumed, whole = resumed_and_whole(tmp_path, Named, growing)
    assert_same(resumed, whole)
    assert [name for group in whole[0]["param_groups"] for name in group["param_names"]][-2:] == [
        "necks.0.weight",
        "necks.0.bias",
    ]
