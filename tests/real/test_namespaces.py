"""`lightning` and `pytorch_lightning`: each alone, and both together."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch
import pytest
import pytorch_lightning

import namespace_worker
import structurenet_pl
import structurenet_pl.pytorch_lightning as twin
from helpers import assert_same, weights
from structurenet_pl.lightning import OLDEST_LIGHTNING, Callback

NAMESPACES = {"lightning": (lightning.pytorch, structurenet_pl), "pytorch_lightning": (pytorch_lightning, twin)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "hidden"), [("lightning.pytorch", "pytorch_lightning"), ("pytorch_lightning", "lightning")]
)
def test_one_installed_lightning_is_enough(left, hidden):
    run = subprocess.run(
        [sys.executable, namespace_worker.__file__, left, hidden], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    _, expected = namespace_worker.train(structurenet_pl, lightning.pytorch, structurenet_pl.GrowableModule)
    assert run.stdout.splitlines()[-1] == str(sorted(expected.items()))


LATE = """
import structurenet_pl, sys
from structurenet_pl import lightning as ours
assert "pytorch_lightning" not in sys.modules
warmup = structurenet_pl.Warmup()
import pytorch_lightning, lightning.pytorch
for pl in (pytorch_lightning, lightning.pytorch):
    assert isinstance(warmup, pl.Callback) and issubclass(pl.Callback, ours.AnyCallback)
    assert issubclass(pl.Trainer, ours.AnyTrainer)
    assert issubclass(pl.callbacks.LearningRateMonitor, ours.AnyLRMonitor)
    assert pl.loggers.TensorBoardLogger in ours.TENSORBOARD_LOGGERS
    optimizer = object()
    wrapper = pl.core.optimizer.LightningOptimizer.__new__(pl.core.optimizer.LightningOptimizer)
    wrapper._optimizer = optimizer
    assert ours.unwrapped(wrapper) is optimizer
import namespace_worker
import structurenet_pl.pytorch_lightning as twin
_, lrs = namespace_worker.train(twin, pytorch_lightning, twin.GrowableModule, [warmup])
print(sorted(lrs.items()))
"""


def test_the_other_lightning_may_be_imported_later():
    paths = [str(Path(structurenet_pl.__file__).parents[1]), str(Path(namespace_worker.__file__).parent)]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{LATE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    _, expected = namespace_worker.train(twin, pytorch_lightning, twin.GrowableModule, [structurenet_pl.Warmup()])
    assert run.stdout.splitlines()[-1] == str(sorted(expected.items()))


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_an_old_lightning_is_refused_with_the_command_that_updates_it(name, tmp_path):
    folder = tmp_path / f"{name.replace('-', '_')}-1.9.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.5\n")
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import structurenet_pl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"structurenet_pl needs {name} 2.5.5 or later" in run.stderr
    assert f"but 1.9.5 is installed: pip install -U {name}" in run.stderr
    requirements = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f"pytorch-lightning>={'.'.join(map(str, OLDEST_LIGHTNING))},<3" in requirements


@pytest.mark.parametrize("name", structurenet_pl.__all__)
def test_callbacks_are_instances_of_either_callback_class(name):
    public = getattr(structurenet_pl, name)
    if isinstance(public, type) and issubclass(public, Callback):
        assert issubclass(public, lightning.pytorch.Callback)
        assert issubclass(public, pytorch_lightning.Callback)
        assert getattr(twin, name) is public


def test_the_twin_namespace_has_all_names():
    assert twin.__all__ == structurenet_pl.__all__
    assert {name for name in twin.__all__ if getattr(twin, name) is not getattr(structurenet_pl, name)} == {
        "GrowableModule"
    }


def test_both_give_the_same_run():
    (one, lrs), (other, lrs_too) = (
        namespace_worker.train(package, pl, package.GrowableModule) for pl, package in NAMESPACES.values()
    )
    assert_same(weights(one), weights(other))
    assert lrs == lrs_too
    assert one.growth_log == other.growth_log


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_mixin_works_with_either_lightning_module(namespace):
    pl, package = NAMESPACES[namespace]

    class Base(pl.LightningModule):
        pass

    class Grown(structurenet_pl.GrowthMixin, Base):
        pass

    net, _ = namespace_worker.train(package, pl, Grown)
    assert [event.born for event in net.growth_log] == [("body.1",)]


def test_a_trainer_refuses_a_growable_module_of_the_other_namespace():
    with pytest.raises(TypeError, match="must be a `LightningModule`"):
        namespace_worker.train(structurenet_pl, pytorch_lightning, structurenet_pl.GrowableModule)


def test_a_user_defined_factor_works_beside_callbacks_of_pytorch_lightning():
    class Slow(structurenet_pl.LRFactor):
        def factor(self, component, now):
            return 0.5

    others = [pytorch_lightning.callbacks.Timer(), Slow()]
    _, lrs = namespace_worker.train(twin, pytorch_lightning, twin.GrowableModule, others)
    _, without = namespace_worker.train(twin, pytorch_lightning, twin.GrowableModule)
    assert lrs.keys() == without.keys()
    assert lrs["head/1d"] == pytest.approx(0.5 * without["head/1d"], rel=1e-15)  # one rounding
