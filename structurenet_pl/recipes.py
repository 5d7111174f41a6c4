r"""Methods that you know from elsewhere, in at most ten lines each, and ``recommended``: factors to begin with.

Each recipe is tested against its original: equal learning rates, or equal weights after training. That says nothing on
whether a method helps; for that, read its paper. Names that a recipe does not import
come from ``structurenet_pl``; ``math`` is Python's. Callbacks go into ``Trainer(callbacks=...)``;
``examples/fine_tuning.py`` fine-tunes a small transformer with some of them.

## Decay by layer (BEiT, timm)

The lr falls by a constant ratio from each layer to the one before it. ``layers`` says what counts as a layer; a
component that is none has the lr of the layer before it, and all that comes before the first layer counts as one more.

```python
# the head has the lr of the norm
beit = DepthDecay(0.75, layers=["blocks.*", "norm"])
# the norm has the lr of the last block: timm's param_groups_layer_decay
timm = DepthDecay(0.75, layers=["blocks.*", "head"])
```

In models of Hugging Face the layers are ``["*.layer.*", "classifier"]`` or the like: the first log line of a fit lists
the names of components.

Source: Bao et al., [BEiT](https://arxiv.org/abs/2106.08254), 2021.

## Discriminative rates, gradual unfreezing (ULMFiT, fastai)

Each depth learns 2.6 times slower than the next one; first the last depth alone is trained, then one more in each
epoch. fastai's ``slice(lr / 100, lr)`` over ``n`` groups is ``DepthDecay(0.01 ** (1 / (n - 1)), layers="*")``.

```python
depths = 4
discriminative = DepthDecay(1 / 2.6, layers="*")
# (phase, from epoch, factor of early depths, of late depths, split: minus n before the last n)
phases = [(f"last {n}", n - 1, 0.0, 1.0, -n) for n in range(1, depths + 1)]
gradual = ProgressiveFreeze(phases)
```

Source: Howard and Ruder, [ULMFiT](https://arxiv.org/abs/1801.06146), 2018, sections 3.2 and 3.3.

## The head first (LP-FT)

The new head is trained alone on frozen features, then everything: a random head would distort the features.

```python
head_first = ProgressiveFreeze([("probe", 0, 0.0, 1.0, -1), ("tune", 5, 1.0, 1.0, 0)])
```

Source: Kumar et al., [Fine-Tuning can Distort Pretrained Features](https://arxiv.org/abs/2202.10054), 2022.

## LoRA+

The second matrix of a low-rank adapter learns 16 times faster than the first. Equal to peft's
``create_loraplus_optimizer``, which has an lr of its own for adapters of embeddings, and counts all trained biases with
the second matrices.

```python
roles = Components({"*lora_A*": "lora_A", "*lora_B*": "lora_B"})
ratio = RoleLR({"lora_B": 16})
```

Source: Hayou et al., [LoRA+](https://arxiv.org/abs/2402.12354), 2024.

## FreezeOut

The lr of each depth falls along a cosine of its own, then the depth is frozen:
``examples/recipes/freeze_out.py`` holds the factor and the estimate of its speed-up. To freeze when the validation
loss stops improving: ``examples/freeze_on_plateau.py``.

Source: Brock et al., [FreezeOut](https://arxiv.org/abs/1706.04983), 2017.

## Auto-RGN (surgical fine-tuning)

The lr follows the norm of the gradients relative to that of the weights; the component with the largest ratio has the
base lr. The original measures over some batches at the start of each epoch and by tensor, this factor in each step and
by component.

```python
class AutoRGN(LRFactor):
    needs_gradients = True

    def ratio(self, component, now):
        weight, grad, _ = now.norms(component, False)
        return grad / weight if weight else 0.0

    def largest(self, now):
        return max(self.ratio(component, now) for component in now.components)

    def factor(self, component, now):
        largest = now.once(self, self.largest)
        return self.ratio(component, now) / largest if largest else 1.0
```

Source: Lee et al., [Surgical Fine-Tuning](https://arxiv.org/abs/2210.11466), 2022, section 4.

## muP for a network that grows wider

Under Adam, the lr of hidden matrices falls as 1 / fan-in, relative to the width at which the lr was tuned. The factor
follows the width as the network grows; biases keep the base lr. muP's initialisation and output scale are yours.

```python
class MuAdam(LRFactor):
    unit, skip_1d = "generation", True

    def __init__(self, base_width, where="hidden"):
        super().__init__(where)
        self.base_width = base_width

    def factor(self, component, now):
        fans = [math.prod(shape[1:]) for shape in component.shapes if len(shape) > 1]
        return self.base_width / min(fans)
```

Source: Yang et al., [Tensor Programs V](https://arxiv.org/abs/2203.03466), 2022, table 3.

## Checkpoints with adapters only

The state dict holds what is trained, and the growth log, so that adapters that a growth method added are built again.
Load the pretrained weights in ``__init__``.

```python
class AdaptersOnly(GrowthMixin, Pretrained):
    strict_loading = False  # of Lightning: a checkpoint may lack parts

    def state_dict(self, *args, **kwargs):
        full, kept = super().state_dict(*args, **kwargs), ("growth_log", "adapters.", "head.")
        return {name: full[name] for name in full if name.startswith(kept)}
```

## gromo decides what and where, this package how fast

[gromo](https://github.com/growingnet/gromo) computes from data which units to add and where. Its growth step, in a
growth method, makes the new units a cohort: they warm up, and a checkpoint builds them again. Run with gromo 88c20ee on
2026-11-28; a resumed run equalled an uninterrupted one to the last bit.

```python
from gromo.containers.growing_mlp import GrowingMLP
from gromo.utils.training_utils import compute_statistics
from torch import nn


class Net(GrowableModule):
    def __init__(self):
        super().__init__()
        self.mlp = GrowingMLP(10, 3, hidden_size=2, number_hidden_layers=2, device=device)

    @growth(role="new")
    def add_units(self, layer: int, units: int = 0):
        self.mlp.set_growing_layers(index=layer)
        grown = self.mlp._growable_layers[layer]
        before = grown.in_features
        if units:  # a checkpoint is being loaded: the log knows how many, values follow
            grown.create_layer_extensions(units)
        else:
            compute_statistics(self.mlp, train_loader, nn.MSELoss(reduction="sum"))
            grown.compute_optimal_updates(maximum_added_neurons=8)
        grown.apply_change(scaling_factor=0.5, extension_size=units or None)
        grown.reset_computation()
        grown.delete_update()
        self.mlp.train()  # compute_statistics leaves it in eval mode
        return {"units": grown.in_features - before}
```
"""

from typing import Literal

from structurenet_pl.callbacks.age_decay import AgeDecay
from structurenet_pl.callbacks.depth_decay import DepthDecay
from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.callbacks.role_lr import RoleLR
from structurenet_pl.callbacks.warmup import Warmup
from structurenet_pl.structure.arguments import checks_arguments


@checks_arguments
def recommended(form: Literal["evidence", "seed", "finetune"] = "evidence") -> list[LRFactor]:
    r"""Return a list of factors for ``Trainer(callbacks=...)``, to use as it is or to edit.

    - ``"evidence"``: ``AgeDecay(0.4, floor=0.1, where="!head")``. Each growth event lowers the lr of all that is older
      to 0.4 of what it was, down to a tenth; what is new, and the head, have the base lr. Chosen by experiment
      (``examples/evidence``). At the base lr that is best for uniform training, in networks that get random layers,
      with 12 seeds in each of 12 settings (MLP and CNN, three data sets, constant and cosine lr): old weights move .47
      as far (.46 to .48), the loss recovers in .76 of the steps (.64 to .91), its peak is .05 higher (.01 to .10), and
      final accuracy is .004 lower (.009 to .000). Both ratios are geometric means over settings; in single
      settings that of the steps is .24 to 1.20.
    - ``"seed"``: the seed document's combined strategy as written. The earliest scaffold layer has the highest lr:

      .. math:: f = 0.1^{\lfloor a / 20 \rfloor} \cdot 0.1^{i / n}

      for scaffold layer :math:`i` of :math:`n` at age :math:`a` in epochs. Patches have factor 0.5, and new components
      warm up over 5 epochs; a new patch has both factors. The age is that of each component, where the seed uses one
      epoch for all components.
    - ``"finetune"``: for a pretrained network with new parts: ``RoleLR({"pretrained": 0.1})``,
      ``DepthDecay(0.75, layers="*", where="pretrained")``. New parts, such as a head or adapters, have the base lr. The
      last pretrained component has a tenth of it, as in DETR, and each one before it 0.75 of the next, as in BEiT. The
      values are from the literature; we have no evidence of our own that they are good ones.

    Roles come from ``configure_components``, from ``@growth(role=...)`` or from a ``Components`` callback.

    Args:
        form: ``"evidence"``, ``"seed"`` or ``"finetune"``.

    Raises:
        ValueError: If ``form`` is none of these.

    Example:
        >>> from structurenet_pl import recommended
        >>> [type(factor).__name__ for factor in recommended("seed")]
        ['DepthDecay', 'AgeDecay', 'RoleLR', 'Warmup']

    References:
        Carion et al., [DETR](https://arxiv.org/abs/2005.12872), 2020, section 4. Bao et al.,
        [BEiT](https://arxiv.org/abs/2106.08254), 2021, appendix.
    """
    # fresh factors in each call: a factor belongs to the Trainer that it is given to
    if form == "evidence":
        return [AgeDecay(0.4, floor=0.1, where="!head")]
    if form == "seed":
        return [
            DepthDecay(slowest="output", where="scaffold"),
            AgeDecay(per=20, unit="epoch", where="scaffold"),
            RoleLR({"patch": 0.5}),
            Warmup(),
        ]
    return [RoleLR({"pretrained": 0.1}), DepthDecay(0.75, layers="*", where="pretrained")]
