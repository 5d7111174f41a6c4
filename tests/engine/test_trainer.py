"""Whatever the Trainer is told to do: with factors of 1 the run is the one without us, with others they act."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from helpers import Half, LRTrace, Net, Plain, Validated, assert_same, loader, run, unfelt
from structurenet_pl import DepthDecay, GrowEvery, StrataMonitor
from structurenet_pl.engine.driver import Driver

FEATURES = {
    "nothing": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping by norm": {"gradient_clip_val": 0.05},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
    "overfit_batches": {"overfit_batches": 3},
    "limits": {"limit_train_batches": 3, "limit_val_batches": 1, "max_epochs": 4},
    "max_steps": {"max_steps": 13, "max_epochs": -1},
    "validation within the epoch": {"val_check_interval": 3},
    "detect_anomaly": {"detect_anomaly": True},
    "inference_mode": {"inference_mode": False},
    "fast_dev_run": {"fast_dev_run": 2},
}


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train data")
@pytest.mark.parametrize("feature", FEATURES)
def test_without_effect_a_run_is_the_same(feature):
    alone, logged, _ = run(**FEATURES[feature])
    ours, logged_too, _ = run(unfelt(), **FEATURES[feature])
    assert_same(ours, alone)
    assert_same(logged_too, logged)
    assert logged or feature == "fast_dev_run"


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train data")
@pytest.mark.parametrize("feature", FEATURES)
def test_factors_and_growth_act(feature):
    class Growing(Net, Validated):
        pass

    trace, growing = LRTrace(), GrowEvery("add_neck", 2, unit="step", limit=1)
    _, _, trainer = run([Half(), DepthDecay(), growing, trace], make=Growing, **FEATURES[feature])
    founders = ["body.0", "body.3", "body.4", "head"]
    assert trace.rows[0] == {name: 0.1 * (0.1 ** ((3 - depth) / 4) * 0.5) for depth, name in enumerate(founders)}
    assert ("necks.0" in trace.rows[-1]) == (trainer.global_step > 2)
    module = trainer.lightning_module
    assert {tensor.dtype for tensor in module.parameters()} == {module.head.weight.dtype}


@pytest.mark.parametrize("target", ["module", "network"])
def test_compiled_modules(target):
    """With the eager backend: what is compiled is the same arithmetic, so the bits are the same, too."""

    def compiled():
        module = Validated()
        if target == "module":
            module.compile(backend="eager")
        else:
            module.body = torch.compile(module.body, backend="eager")
        return module

    alone, logged, _ = run(make=compiled)
    ours, logged_too, _ = run(unfelt(), make=compiled)
    assert_same(ours, alone)
    assert_same(logged_too, logged)
    trace = LRTrace()
    run([Half(), trace], make=compiled)
    inner = "body._orig_mod." if target == "network" else "body."
    assert trace.rows[0] == dict.fromkeys([f"{inner}0", f"{inner}3", f"{inner}4", "head"], 0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # within dynamo
@pytest.mark.parametrize("lr", ["float", "tensor"])
def test_compiled_optimizer_step(lr):
    """The optimizer alone: with a closure inside, what is compiled would be the training step."""

    class Compiled(Validated):
        def __init__(self, lr=0.01):
            super().__init__()
            self.automatic_optimization = False
            self.lr = lr

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=torch.tensor(self.lr) if lr == "tensor" else self.lr)
            self.compiled_step = torch.compile(optimizer.step, backend="eager")
            return optimizer

        def training_step(self, batch, batch_idx):
            self.optimizers().zero_grad()
            super().training_step(batch, batch_idx).backward()
            self.compiled_step()

    alone, _, _ = run(make=Compiled)
    ours, _, _ = run(unfelt(), make=Compiled)
    assert_same(ours, alone)
    alone, _, _ = run(make=lambda: Compiled(0.005))
    ours, _, _ = run([Half()], make=Compiled)
    assert_same(ours, alone)


def test_a_second_fit_starts_clean():
    factor = Half()
    _, _, trainer = run([factor])
    trainer.fit_loop.max_epochs = 5
    trainer.fit(trainer.lightning_module, loader(8), loader(2, shuffle=False))
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {0.1 * 0.9**2 * 0.5}
    trace = LRTrace()
    run([factor, trace])
    assert set(trace.rows[0].values()) == {0.05}


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_stages_without_training(stage):
    data = DataLoader(loader(2).dataset, batch_size=8) if stage != "predict" else DataLoader(torch.randn(8, 6))
    factor = Half()
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", callbacks=[factor, StrataMonitor()])
    getattr(trainer, stage)(Validated(), data, **{} if stage == "predict" else {"verbose": False})
    assert Driver.of(trainer) is None
    _, _, trainer = run([factor, StrataMonitor()], make=Validated)
    getattr(trainer, stage)(trainer.lightning_module, data, **{} if stage == "predict" else {"verbose": False})


@pytest.mark.filterwarnings("ignore:.*(was called without a model|there is no last checkpoint)")  # with us or without
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_checkpoint_of_a_broken_step_holds_base_lrs(error, tmp_path):
    class Breaks(Validated):
        broken = True

        def training_step(self, batch, batch_idx):
            if self.broken and self.global_step == 13:
                raise error("in the middle of optimizer.step")
            return super().training_step(batch, batch_idx)

    saver = OnExceptionCheckpoint(tmp_path, "broken")
    torch.manual_seed(0)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        run([Half(), saver], make=Breaks, enable_checkpointing=True)
    saved = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    assert [group["lr"] for group in saved["optimizer_states"][0]["param_groups"]] == [0.1 * 0.9]
    assert saved["lr_schedulers"][0]["_last_lr"] == [0.1 * 0.9]


@pytest.mark.slow
def test_batch_size_finder():
    class Sized(Plain):
        batch_size = 2

        def train_dataloader(self):
            return DataLoader(loader(8).dataset, batch_size=self.batch_size)

    module, trace = Sized(), LRTrace()
    trainer = Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        max_epochs=2,
        callbacks=[Half(), trace],
    )
    Tuner(trainer).scale_batch_size(module, max_trials=2, steps_per_trial=2)
    assert module.batch_size in (4, 8)  # Lightning 2.5 doubles once more
    trace.rows.clear()
    trainer.fit(module)
    assert set(trace.rows[0].values()) == {0.05}
    assert set(trace.rows[-1].values()) == {0.05}
