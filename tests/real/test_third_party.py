"""Third-party projects: each trains a tiny model through its own public API, with callbacks of this package."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_diabetes
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from helpers import LRTrace, Net, Plain, assert_same, fit, loader, unfelt, weights
from skeleton_tables import NETWORKS, listed
from structurenet_pl import Components, GrowableModule, GrowEvery, LRFactor, RoleLR, Warmup, explain, growth
from structurenet_pl.structure.module_structure import structure_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore",  # what a project warns of is its own affair
        "error:::structurenet_pl",
        "ignore:.* looks for .* and finds nothing",
        "ignore:.*change[sd] no learning rate in this run",
        "ignore:component .* shares tensors with",
    ),
]

QUIET = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
TRAINER = QUIET | {"enable_checkpointing": False, "enable_model_summary": False}


def series():
    """Two time series in one table."""
    from pandas import DataFrame

    step, name = np.tile(np.arange(48), 2), np.repeat(["a", "b"], 48)
    return DataFrame({"step": step, "name": name, "value": np.sin(step / 4) + (name == "b")})


def pina(callbacks):
    """Manual optimization of adversaries: the module steps bare optimizers and schedulers, past Lightning."""
    from pina import Trainer
    from pina.model import FeedForward
    from pina.optim import TorchOptimizer, TorchScheduler
    from pina.problem.zoo import Poisson2DSquareProblem
    from pina.solver import CompetitivePhysicsInformedSolver

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(8, "grid")
    solver = CompetitivePhysicsInformedSolver(
        problem,
        FeedForward(2, 1, layers=[8, 8]),
        optimizer_model=TorchOptimizer(torch.optim.Adam, lr=0.01),
        optimizer_discriminator=TorchOptimizer(torch.optim.SGD, lr=0.02),
        scheduler_model=TorchScheduler(ExponentialLR, gamma=0.9),
        scheduler_discriminator=TorchScheduler(ExponentialLR, gamma=0.8),
    )
    Trainer(solver, batch_size=16, callbacks=callbacks, **TRAINER).train()
    return solver


def mlcolvar(callbacks):
    """An autoencoder for collective variables of molecules, with optimizer and scheduler as options."""
    from mlcolvar.cvs import AutoEncoderCV
    from mlcolvar.data import DictDataset, DictModule

    options = {"optimizer": {"lr": 0.01}, "lr_scheduler": {"scheduler": ExponentialLR, "gamma": 0.9}}
    module = AutoEncoderCV([10, 8, 2], options=options)
    data = DictDataset({"data": torch.tensor(load_diabetes().data, dtype=torch.float32)})
    Trainer(callbacks=callbacks, **TRAINER).fit(module, DictModule(data, batch_size=64))
    return module


def pytorch_forecasting(callbacks):
    """A temporal fusion transformer: many parts, some of them shared, and a learning rate for each epoch."""
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet

    data = TimeSeriesDataSet(
        series(),
        time_idx="step",
        target="value",
        group_ids=["name"],
        max_encoder_length=8,
        max_prediction_length=4,
        static_categoricals=["name"],
        time_varying_known_reals=["step"],
        time_varying_unknown_reals=["value"],
    )
    module = TemporalFusionTransformer.from_dataset(data, hidden_size=8, learning_rate=[0.03, 0.02, 0.01])
    Trainer(callbacks=callbacks, gradient_clip_val=0.1, **TRAINER).fit(module, data.to_dataloader(batch_size=16))
    return module


def gluonts(callbacks):
    """An estimator that hides its Trainer, swallows exceptions and gives back the best checkpoint."""
    from gluonts.dataset.pandas import PandasDataset
    from gluonts.torch import DeepAREstimator

    table = series()
    table["date"] = np.datetime64("2020-01-01") + table["step"].to_numpy().astype("timedelta64[D]")
    data = PandasDataset.from_long_dataframe(table, item_id="name", timestamp="date", target="value", freq="D")
    trainer = QUIET | {"callbacks": callbacks}
    estimator = DeepAREstimator("D", 4, hidden_size=8, batch_size=16, num_batches_per_epoch=4, trainer_kwargs=trainer)
    return estimator.train_model(data).trained_net


def pytorch_tabular(callbacks):
    """A tabular transformer on ``pytorch_lightning``, with early stopping and checkpoints of its own."""
    from pytorch_tabular import TabularModel
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
    from pytorch_tabular.models import FTTransformerConfig

    table = load_diabetes(as_frame=True).frame.head(128)
    model = TabularModel(
        data_config=DataConfig(["target"], [name for name in table if name != "target"]),
        model_config=FTTransformerConfig("regression", input_embed_dim=8, num_heads=2, num_attn_blocks=2),
        optimizer_config=OptimizerConfig(lr_scheduler="ExponentialLR", lr_scheduler_params={"gamma": 0.9}),
        trainer_config=TrainerConfig(batch_size=32, max_epochs=3, accelerator="cpu", progress_bar="none"),
        verbose=False,
    )
    model.fit(table, callbacks=callbacks)
    return model.model


PROJECTS = [pina, mlcolvar, pytorch_forecasting, gluonts, pytorch_tabular]


def trained(project, *callbacks):
    """The module that a project trains."""
    pytest.importorskip(project.__name__)
    seed_everything(0, verbose=False)
    return project(list(callbacks))


def traced(project, *callbacks):
    """The module, and for each of its optimizers at every step the param group and the lr of each tensor."""
    steps = defaultdict(list)

    def note(optimizer, args, kwargs):
        groups = optimizer.param_groups
        steps[optimizer].append([(group.get("name"), group["lr"]) for group in groups for _ in group["params"]])

    hook = register_optimizer_step_post_hook(note)  # sees the steps that Lightning does not
    try:
        module = trained(project, *callbacks)
    finally:
        hook.remove()
    return module, [steps[optimizer] for optimizer in module.trainer.optimizers]


class PowersOfTwo(LRFactor):
    """Exact in floats; another factor for each component, and at each step."""

    def factor(self, component, now):
        return 2.0 ** -(component.depth + now.clock.step % 3)


@pytest.mark.parametrize("project", PROJECTS)
def test_factors_of_1_change_nothing(project):
    neutral = RoleLR({"nobody": 1.0}), Warmup(newborn_only=False, start=1.0)
    assert_same(weights(trained(project, *neutral)), weights(trained(project)))


@pytest.mark.parametrize("project", PROJECTS)
def test_every_lr_is_that_of_the_project_times_the_factor(project):
    _, alone = traced(project)
    module, ours = traced(project, PowersOfTwo())
    depth = {entry.group: entry.component.depth for entry in explain(module.trainer)}
    assert len(set(depth.values())) > 1
    for plain, factored in zip(alone, ours, strict=True):
        for step, (tensors, expected) in enumerate(zip(factored, plain, strict=True)):
            factors = [2.0 ** -(depth[name] + step % 3) for name, _ in tensors]
            assert [lr for _, lr in tensors] == [lr * by for (_, lr), by in zip(expected, factors, strict=True)]


def transformers_schedule(name):
    def make(optimizer):
        from transformers import get_scheduler

        more = {"num_stable_steps": 3, "num_decay_steps": 6} if name == "warmup_stable_decay" else {}
        return get_scheduler(name, optimizer, 3, 16, scheduler_specific_kwargs=more)

    return make


def ignite_handler(kind, **settings):
    """It is called by the events of an engine, and writes any setting of a group."""

    def make(optimizer):
        from ignite import handlers

        handler = getattr(handlers, kind)(optimizer, **settings)
        handler.step = lambda: handler(None)
        return handler

    return make


SCHEDULES = {
    name: transformers_schedule(name)
    for name in ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup", "inverse_sqrt"]
} | {
    "ignite lr": ignite_handler(
        "LinearCyclicalScheduler", param_name="lr", start_value=0.1, end_value=0.01, cycle_size=6
    ),
    "ignite one group": ignite_handler(
        "PiecewiseLinear", param_name="lr", milestones_values=[(0, 0.1), (9, 0.01)], param_group_index=1
    ),
    "ignite momentum": ignite_handler(
        "CosineAnnealingScheduler", param_name="momentum", start_value=0.9, end_value=0.5, cycle_size=6
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_transformers_and_ignite(name):
    class Steps:
        def configure_optimizers(self):
            params = list(self.parameters())
            groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.05}]
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
            self.schedule = SCHEDULES[name](optimizer)
            return optimizer

        def on_train_batch_end(self, *args):
            self.schedule.step()

    class Settings(LRTrace):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.rows.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])

    plain, ours, grown = Settings(), Settings(), Settings()
    modules = [type("P", (Steps, Plain), {})(), type("P", (Steps, Plain), {})(), type("N", (Steps, Net), {})()]
    for module, trace, callbacks in zip(
        modules, (plain, ours, grown), ([], unfelt(), [GrowEvery("add_neck", 1, limit=1)]), strict=True
    ):
        torch.manual_seed(0)
        fit(module, [*callbacks, trace], data=loader(shuffle=False))
    assert len({tuple(row) for row in plain.rows}) > 3, "it should act"
    assert [set(row) for row in ours.rows] == [set(row) for row in grown.rows] == [set(row) for row in plain.rows]


class TinyLanguageModel(GrowableModule):
    """A language model of transformers with random weights, whose vocabulary grows."""

    def __init__(self):
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
        self.model = GPT2LMHeadModel(GPT2Config(vocab_size=12, **sizes))

    @growth(role="new")
    def add_tokens(self, more: int):
        self.model.resize_token_embeddings(self.model.config.vocab_size + more, mean_resizing=False)

    def training_step(self, batch, batch_idx):
        tokens = (batch[0] * 7).abs().long() % self.model.config.vocab_size
        return self.model(input_ids=tokens, labels=tokens).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@pytest.mark.parametrize("old", [0.0, 0.1])
def test_new_tokens_of_transformers_learn_at_the_full_rate(old):
    pytest.importorskip("transformers")

    class OldSlow(LRFactor):
        def factor(self, component, now):
            return 1.0 if component.role == "new" else old

    class Table(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.start = pl_module.model.transformer.wte.weight.detach().clone()

        def on_train_end(self, trainer, pl_module):
            self.moved = (pl_module.model.transformer.wte.weight.detach() - self.start).abs().max(1).values

    module, table = TinyLanguageModel(), Table()
    fit(module, [GrowEvery("add_tokens", 1, limit=2, arguments={"more": 2}), OldSlow(), table], 3, data=loader(8))
    assert module.model.lm_head.weight is module.model.transformer.wte.weight
    assert table.moved[-4:].min() > 0.001
    assert table.moved[:12].max() == 0 if old == 0 else 0 < table.moved[:12].max() < table.moved[-4:].max()
    loaded = TinyLanguageModel()
    loaded.load_state_dict(module.state_dict())
    assert loaded._generations == module._generations
    (generations,) = {generations[0] for generations in module._generations.values()}
    assert generations == (0,) * 12 + (1, 1, 2, 2)


def small_transformers():
    """Networks of Hugging Face, by the names of their skeletons."""
    transformers = pytest.importorskip("transformers")

    size = {
        "vocab_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 8,
        "intermediate_size": 8,
    }
    gpt2 = {"vocab_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 8}
    t5 = {"vocab_size": 32, "num_layers": 2, "num_heads": 2, "d_model": 8, "d_kv": 4, "d_ff": 8}
    return {
        "BERT (transformers)": transformers.BertForSequenceClassification(transformers.BertConfig(**size)),
        "GPT-2 (transformers)": transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2)),
        "T5 (transformers)": transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
        "Llama (transformers)": transformers.LlamaForCausalLM(transformers.LlamaConfig(**size)),
        "Mixtral (transformers)": transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**size, num_key_value_heads=2, num_local_experts=4)
        ),
    }


def test_skeletons_have_the_components_of_the_real_networks():
    for name, module in small_transformers().items():
        assert list(structure_of(module).components) == listed(NETWORKS[name][1])


def test_the_net_inside_a_solver_of_pina_is_opened():
    solvers, model = pytest.importorskip("pina.solver"), pytest.importorskip("pina.model")
    from pina.problem.zoo import Poisson2DSquareProblem

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(8, "grid")
    solver = solvers.PhysicsInformedSingleModelSolver(problem, model.FeedForward(2, 1, layers=[8, 8]))
    assert list(structure_of(solver).components) == listed(NETWORKS["PINA"][1])


def test_lora_plus_of_peft():
    """The recipe with peft's own adapters and the optimizer that peft makes for them."""
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    def adapted():
        torch.manual_seed(0)
        body = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        return get_peft_model(body, LoraConfig(r=2, target_modules=["0", "2"]))

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = adapted()

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            trained = [weight for weight in self.parameters() if weight.requires_grad]
            return torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)

    class OfPeft(Module):
        def configure_optimizers(self):
            return create_loraplus_optimizer(self.model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16)

    ours, theirs = Module(), OfPeft()
    roles = Components({"*lora_A*": "lora_A", "*lora_B*": "lora_B"})
    fit(ours, [roles, RoleLR({"lora_B": 16})], data=loader(shuffle=False))
    fit(theirs, data=loader(shuffle=False))
    assert_same(weights(ours), weights(theirs))
    assert any(weight.any() for name, weight in weights(ours).items() if "lora_B" in name)
