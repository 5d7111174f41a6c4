"""Small networks as people fine-tune them: a transformer with the names of timm, one with low-rank adapters."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    """Cross entropy, and an optimizer of the test's choice."""

    def __init__(self, make_optimizer=None):
        super().__init__()
        self.make_optimizer = make_optimizer or (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make_optimizer([weight for weight in self.parameters() if weight.requires_grad])


class Layers(Classifier):
    """Three hidden layers and a head."""

    def __init__(self, make_optimizer=None):
        super().__init__(make_optimizer)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)


class VisionTransformer(Classifier):
    """The parts of timm's vision transformer, by name; the blocks are plain layers."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 6))
        self.pos_embed = nn.Parameter(torch.zeros(1, 6))
        self.patch_embed = nn.Linear(6, 6)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)) for _ in range(4)))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def group_matcher(self, coarse=False):
        """What timm asks a model for: the order of its layers. 99999 stands for "with the one before"."""
        return {
            "stem": "^(?:cls_token|pos_embed|patch_embed)",
            "blocks": [(r"^blocks\.(\d+)", None), ("^norm", (99999,))],
        }

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.patch_embed(x) + self.pos_embed + self.cls_token)))


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank adapter, by peft's names."""

    def __init__(self, inputs, outputs, rank=2):
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Adapted(Classifier):
    """Two layers with low-rank adapters."""

    def __init__(self, make_optimizer=None):
        super().__init__(make_optimizer)
        self.model = nn.Sequential(LowRank(6, 6), nn.Tanh(), LowRank(6, 3))

    def forward(self, x):
        return self.model(x)


def batches(dtype=torch.float32):
    """Four batches in a fixed order."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 6, generator=generator, dtype=dtype)
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()), batch_size=8)


def seeded(make, *args):
    """A network whose weights follow from a fixed seed."""
    torch.manual_seed(5)
    return make(*args)


def lrs_by_parameter(module, optimizer):
    """The lr of each trained parameter, by name."""
    names = {weight: name for name, weight in module.named_parameters()}
    return {names[weight]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}


def train_plainly(module, optimizer, epochs, before_epoch=lambda epoch: None, before_step=lambda: None):
    """A loop as people write it without Lightning; returns the weights."""
    data = batches(next(module.parameters()).dtype)
    for epoch in range(epochs):
        before_epoch(epoch)
        for batch in data:
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            before_step()
            optimizer.step()
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}
