"""recommended(): named compositions of factors."""

from typing import Literal

from structurenet_pl.callbacks.age_decay import AgeDecay
from structurenet_pl.callbacks.depth_decay import DepthDecay
from structurenet_pl.callbacks.lr_factor import LRFactor
from structurenet_pl.callbacks.role_lr import RoleLR
from structurenet_pl.callbacks.warmup import Warmup
from structurenet_pl.structure.arguments import checks_arguments


@checks_arguments
def recommended(form: Literal["evidence", "seed"] = "evidence") -> list[LRFactor]:
    r"""Return a list of factors for ``Trainer(callbacks=...)``, to use as it is or to edit.

    - ``"evidence"``: a composition by the authors of this package: ``DepthDecay(where="scaffold")``,
      ``AgeDecay(floor=0.01, where="scaffold")``, ``Warmup()``. The lr of the scaffold falls with each growth event and
      towards the input, new components warm up, and the head keeps the base lr. Our second pilot study does not support
      this composition: with a base lr tuned for uniform training, final accuracy was .001 to .043 lower in seven of
      eight settings, and old weights moved only 60 to 90 % as far.
    - ``"seed"``: the seed document's combined strategy as written. The earliest scaffold layer has the highest lr:

      .. math:: f = 0.1^{\lfloor a / 20 \rfloor} \cdot 0.1^{i / n}

      for scaffold layer :math:`i` of :math:`n` at age :math:`a` in epochs. Patches have factor 0.5, and new components
      warm up over 5 epochs; a new patch has both factors. The age is that of each component, where the seed uses one
      epoch for all components.

    Roles come from ``configure_components``, from ``@growth(role=...)`` or from a ``Components`` callback.

    Args:
        form: ``"evidence"`` or ``"seed"``.

    Raises:
        ValueError: If ``form`` is neither ``"evidence"`` nor ``"seed"``.

    Example:
        >>> from structurenet_pl import recommended
        >>> [type(factor).__name__ for factor in recommended("seed")]
        ['DepthDecay', 'AgeDecay', 'RoleLR', 'Warmup']
    """
    # fresh factors in each call: a factor belongs to the Trainer that it is given to
    if form == "evidence":
        return [DepthDecay(where="scaffold"), AgeDecay(floor=0.01, where="scaffold"), Warmup()]
    return [
        DepthDecay(slowest="output", where="scaffold"),
        AgeDecay(per=20, unit="epoch", where="scaffold"),
        RoleLR({"patch": 0.5}),
        Warmup(),
    ]
