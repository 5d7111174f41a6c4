"""Effective lr == what the scheduler alone gives × factors, with growth in the middle, bit for bit."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers

from helpers import Flat, FlatPlain, Half, LRTrace, Net, Plain, assert_same, fit, loader, slow_but_for
from recipes import EPOCHS, NESTED_SCHEDULERS, SCHEDULERS, STEPS, exported_schedulers, ignore_warnings_of_torch
from references import find_timm
from structurenet_pl import Clock, Component, GrowEvery, LRFactor, Moment
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.optim.references import References
from structurenet_pl.optim.schedulers import stand_ins
from structurenet_pl.structure.partition import Structure

TIMM = {
    "CosineLRScheduler": {"t_initial": 5, "lr_min": 0.003, "warmup_t": 2, "warmup_lr_init": 0.01, "cycle_limit": 2},
    "TanhLRScheduler": {"t_initial": 6, "warmup_t": 2},
    "StepLRScheduler": {"decay_t": 3, "decay_rate": 0.5, "warmup_t": 2, "noise_range_t": 4},
    "MultiStepLRScheduler": {"decay_t": [2, 5], "decay_rate": 0.5},
    "PolyLRScheduler": {"t_initial": 7, "power": 2.0},
    "WSDLRScheduler": {"t_initial": 8, "decay_t": 3, "warmup_t": 2},
    "PlateauLRScheduler": {"patience_t": 0, "mode": "min", "warmup_t": 2, "noise_range_t": 5},
}


def timm_recipe(name, interval):
    def make(optimizer):
        import timm.scheduler

        in_epochs = {} if name == "PlateauLRScheduler" else {"t_in_epochs": interval == "epoch"}
        return getattr(timm.scheduler, name)(optimizer, **TIMM[name], **in_epochs)

    return make


class Wobble(LRFactor):
    """A factor that differs in every component and step."""

    def factor(self, component, now):
        return wobble(component.name, now.clock.step)


def wobble(name, step):
    return (1 + step % 5) / len(name)


class FlatNet(Flat, Net):
    pass


class StepsTimm:
    """What projects with timm's schedulers write."""

    def lr_scheduler_step(self, scheduler, metric):
        if self.interval == "step":
            scheduler.step_update(self.global_step)
        else:
            scheduler.step(self.current_epoch + 1, metric)


class TimmPlain(StepsTimm, FlatPlain):
    pass


class TimmNet(StepsTimm, FlatNet):
    pass


LRS = {"float": 0.1, "tensor": torch.tensor(0.1)}


def sgd(lr):
    # a lr in a tensor is for compiled and capturable optimizers, and foreach of SGD refuses it
    return lambda params: torch.optim.SGD(
        params, lr=LRS[lr].clone() if lr == "tensor" else LRS[lr], momentum=0.9, foreach=False
    )


def growing():
    return [GrowEvery("add_patch", 2, limit=1, arguments={"at": 0}), GrowEvery("add_neck", 5, limit=1)]


def check_composition(alone, ours, lr="float", start=0):
    """Every lr of ours is the one without us times the factor, to the last bit; components come when they are born."""
    assert start or len({row[0] for row in alone.rows}) > 1, "the scheduler should act"
    number = torch.tensor if lr == "tensor" else float
    for step, (base, row) in enumerate(zip(alone.rows, ours.rows, strict=True), start):
        expected = {group: float(number(base[0]) * wobble(group, step)) for group in row}
        assert row == expected
        assert ("patches.0" in row, "necks.0" in row) == (step >= 8, step >= 20)


def test_there_is_a_recipe_for_every_scheduler():
    assert SCHEDULERS.keys() == exported_schedulers()


@ignore_warnings_of_torch
@pytest.mark.parametrize("lr", slow_but_for(["float"], LRS))
@pytest.mark.parametrize("interval", slow_but_for(["step"], ["epoch", "step"]))
@pytest.mark.parametrize("name", [*SCHEDULERS, *NESTED_SCHEDULERS])
def test_effective_is_scheduler_times_factors(name, interval, lr):
    scheduler = (SCHEDULERS | NESTED_SCHEDULERS)[name]
    settings = {"optimizer": sgd(lr), "scheduler": scheduler, "interval": interval}
    alone, ours = LRTrace(), LRTrace()
    fit(FlatPlain(**settings), [alone], epochs=EPOCHS)
    fit(FlatNet(**settings), [Wobble(), *growing(), ours], epochs=EPOCHS)
    check_composition(alone, ours, lr)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "interval"),
    [*product(TIMM, ["epoch", "step"])][:-1] if find_timm() else [],  # PlateauLRScheduler knows epochs only
)
def test_timm_schedulers(name, interval):
    settings = {"optimizer": sgd("float"), "scheduler": timm_recipe(name, interval), "interval": interval}
    alone, ours = LRTrace(), LRTrace()
    fit(TimmPlain(**settings), [alone], epochs=EPOCHS)
    fit(TimmNet(**settings), [Wobble(), *growing(), ours], epochs=EPOCHS)
    check_composition(alone, ours)


@ignore_warnings_of_torch
@pytest.mark.parametrize("interval", slow_but_for(["step"], ["epoch", "step"]))
@pytest.mark.parametrize("name", [*SCHEDULERS, *NESTED_SCHEDULERS])
def test_resumed_schedule_is_that_of_lightning_times_factors(name, interval, tmp_path):
    """Compared with a resume without us, because Lightning loses a step of ReduceLROnPlateau when it resumes."""
    scheduler = (SCHEDULERS | NESTED_SCHEDULERS)[name]
    settings = {"optimizer": sgd("float"), "scheduler": scheduler, "interval": interval}
    traces = []
    for kind, callbacks in ((FlatPlain, list), (FlatNet, lambda: [Wobble(), *growing()])):
        for epochs in (EPOCHS // 2, EPOCHS):
            traces.append(LRTrace())
            resumed = None if epochs < EPOCHS else tmp_path / "half.ckpt"
            trainer = fit(kind(**settings), [*callbacks(), traces[-1]], epochs=epochs, ckpt_path=resumed)
            trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, alone, _, ours = traces
    check_composition(alone, ours, start=STEPS // 2)


def test_several_schedulers_on_one_optimizer():
    def configured(kind):
        class Several(kind):
            def configure_optimizers(self):
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
                return [optimizer], [
                    {"scheduler": SCHEDULERS["ExponentialLR"](optimizer), "interval": "step"},
                    {"scheduler": SCHEDULERS["MultiStepLR"](optimizer)},
                    {"scheduler": SCHEDULERS["ReduceLROnPlateau"](optimizer), "monitor": "still", "frequency": 3},
                ]

        return Several()

    alone, ours = LRTrace(), LRTrace()
    fit(configured(FlatPlain), [alone], epochs=EPOCHS)
    fit(configured(FlatNet), [Wobble(), *growing(), ours], epochs=EPOCHS)
    check_composition(alone, ours)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_bound_scheduler_is_what_it_was(name):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "stem"}], lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    kind, state = type(scheduler), copy.deepcopy(scheduler.state_dict())
    table = halved(optimizer, parameter)
    references = References()
    references.replace([scheduler], stand_ins(table))
    references.replace([scheduler], stand_ins(table))
    assert type(scheduler) is kind
    assert list(scheduler.state_dict()) == list(state)
    copied = copy.deepcopy(scheduler)
    assert type(copied) is kind
    assert type(copied.optimizer) is torch.optim.SGD
    if name not in ("LambdaLR", "MultiplicativeLR"):  # lambdas do not pickle, bound or not
        assert type(pickle.loads(pickle.dumps(scheduler))) is kind
    references.restore([scheduler])
    assert scheduler.optimizer is optimizer


def halved(optimizer, parameter):
    """The table of an optimizer with one component, whose factor is a half."""
    component, factors = Component("stem"), Factors([Half()])
    factors.set_components((component,), ())
    factors.evaluate_at(Clock(), Moment)
    return LRTable(
        optimizer, Structure({"stem": component}, {"stem": {"stem": parameter}}, {}, {"stem": parameter}), factors
    )


def table_of_one(lr=0.1):
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "stem"}], lr=lr)
    return optimizer, halved(optimizer, parameter)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_writing_again_does_not_compound(lr):
    optimizer, table = table_of_one(lr)
    for _ in range(10):
        table.refresh()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05, rel=1e-7)  # a float32 tensor in one case


@pytest.mark.filterwarnings("ignore:the lr of param group 'stem'")
def test_foreign_write_is_the_new_base():
    optimizer, table = table_of_one()
    table.refresh()
    optimizer.param_groups[0]["lr"] = 0.4
    table.refresh()
    assert table.base_lrs.of_pieces()[0] == 0.4
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_foreign_write_warns_once():
    optimizer, table = table_of_one()
    table.refresh()
    optimizer.param_groups[0]["lr"] *= 2
    with pytest.warns(UserWarning, match="write an LRFactor instead"):
        table.refresh()
    optimizer.param_groups[0]["lr"] = 0.3
    table.refresh()  # a second warning would be an error here


@pytest.mark.filterwarnings("ignore:the lr of param group 'stem'")
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_a_foreign_tensor_or_number_is_seen(lr):
    optimizer, table = table_of_one(lr)
    table.refresh()
    if isinstance(lr, torch.Tensor):
        optimizer.param_groups[0]["lr"].fill_(0.4)
    else:
        optimizer.param_groups[0]["lr"] = 0.4
    table.refresh()
    assert float(table.base_lrs.of_pieces()[0]) == pytest.approx(0.4, rel=1e-7)  # a float32 tensor in one case


def test_saved_lr_is_the_base_and_loading_takes_it_as_such():
    optimizer, table = table_of_one()
    table.refresh()
    state = optimizer.state_dict()
    assert state["param_groups"][0]["lr"] == 0.1
    assert optimizer.param_groups[0]["lr"] == 0.05
    state["param_groups"][0]["lr"] = 0.2
    optimizer.load_state_dict(state)
    assert (table.base_lrs.of_pieces()[0], optimizer.param_groups[0]["lr"]) == (0.2, 0.1)


def test_a_scheduler_that_raises_leaves_the_effective_lr():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)

    class Failing(torch_schedulers.LRScheduler):
        def get_lr(self):
            if self.last_epoch > 0:
                raise OSError("out of luck")
            return [0.1]

    scheduler = Failing(optimizer)
    References().replace([scheduler], stand_ins(halved(optimizer, parameter)))
    optimizer.step()
    with pytest.raises(OSError, match="out of luck"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_groups_of_others_are_left_alone():
    optimizer, table = table_of_one()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.7})
    table.refresh()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.7]


def test_a_write_in_the_module_hook_is_the_base_of_that_step():
    class WarmsUp(Plain):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 + self.global_step) ** 0.3
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    record = LRTrace()
    with pytest.warns(UserWarning, match="write an LRFactor instead"):
        fit(WarmsUp(), [Wobble(), record], epochs=2)
    for step, row in enumerate(record.rows):
        assert row == {group: 0.01 * (1 + step) ** 0.3 * wobble(group, step) for group in row}


def test_state_of_the_old_is_untouched_by_growth():
    class Compare(LRTrace):
        def on_growth(self, trainer, pl_module, event):
            optimizer = trainer.optimizers[0]
            old = set(optimizer.state)
            assert all(not optimizer.state.get(tensor) for tensor in pl_module.necks.parameters())
            assert old == set(pl_module.parameters()) - set(pl_module.necks.parameters())
            self.rows.append({tensor: dict(state) for tensor, state in optimizer.state.items()})

        def on_train_epoch_end(self, trainer, pl_module):
            if not self.rows:
                optimizer = trainer.optimizers[0]
                self.before = {tensor: dict(state) for tensor, state in optimizer.state.items()}

    compare = Compare()
    compare.on_before_optimizer_step = lambda *args: None
    adam = {"optimizer": lambda params: torch.optim.Adam(params, lr=0.01)}
    fit(Net(**adam), [compare, GrowEvery("add_neck", 2, limit=1)], epochs=3, data=loader())
    (after,) = compare.rows
    for tensor, state in compare.before.items():
        assert_same(after[tensor], state)
