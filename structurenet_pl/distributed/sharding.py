"""FSDP2 around a module that changes in a fit: the units of ``fully_shard`` follow growth.

A unit is a module to which ``fully_shard`` was applied. It manages the parameters of all modules inside it that belong
to no other unit: it gathers them for its forward pass, and divides them among the processes again. torch reads the
parameters of a unit once, in ``fully_shard``, and refuses a second call. So this file and ``sharded_units`` use private
attributes of FSDP2, to have a unit manage what stands in its modules now. No other file does.
"""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from structurenet_pl.distributed.newborn_gradients import compare_first_gradients
from structurenet_pl.distributed.sharded_units import (
    FSDPModule,
    State,
    begin_anew,
    managed_parameters,
    own_modules,
    states_of,
)
from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.structure.sharded_tensors import is_sharded, whole
from structurenet_pl.structure.tensor_mapping import common_device_and_dtype, move_notes, move_tensors

if torch.distributed.is_available():
    from torch.distributed.fsdp import fully_shard


def holds_shards(module: nn.Module) -> bool:
    """Whether this process holds only a part of some parameters, as under FSDP2 and tensor parallelism."""
    return any(isinstance(part, FSDPModule) for part in module.modules()) or any(map(is_sharded, module.parameters()))


def tensors_may_mix() -> AbstractContextManager[None]:
    """A context in which operations take sharded and whole tensors together, as a growth method may."""
    # here, because it is experimental: the package must be importable with every torch
    from torch.distributed.tensor.experimental import implicit_replication

    return implicit_replication()


def register_shards(module: nn.Module) -> None:
    """Register the sharded parameters in the module, on which the optimizer steps.

    After a forward pass without a backward pass, as in a validation, the outermost unit holds whole parameters, which
    are other objects.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


class ShardedUnits:
    """The units of a module in one growth.

    Args:
        module: The module before the growth, with sharded parameters.
        data_is_parallel: Whether processes train on different data, so that gradients must be reduced.

    Raises:
        MisconfigurationException: If this torch has another FSDP2.
    """

    def __init__(self, module: nn.Module, data_is_parallel: bool) -> None:
        if not all(hasattr(state, "_fsdp_param_groups") for state in states_of(module)):
            raise MisconfigurationException(
                f"growth under FSDP2 is written for the FSDP2 of torch 2.13, which torch {torch.__version__} does not "
                "have: grow before the fit, train with strategy='ddp', or use another torch."
            )
        self._module, self._data_is_parallel = module, data_is_parallel
        self._old = {tensor: name for name, tensor in module.named_parameters()}
        self._modules = dict(module.named_modules())
        self._groups = {state: list(state._fsdp_param_groups) for state in states_of(module)}
        self._managed = {group: list(group.fsdp_params) for groups in self._groups.values() for group in groups}

    def new_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the growth has added or replaced, and that no unit manages yet, by name."""
        managed = managed_parameters(self._module)
        return {
            name: tensor
            for name, tensor in self._module.named_parameters()
            if tensor not in self._old and tensor not in managed
        }

    def follow(self) -> None:
        """Divide new parameters among the processes, and drop those that are gone.

        A part whose nearest sibling holds units gets units in the same places, with the same mesh and policies. All
        other new parameters join the unit around them.

        Raises:
            MisconfigurationException: If a new parameter replaces one that a tensor-parallel plan has divided, or if it
                has neither a sibling in units nor a unit around it.
        """
        new = self.new_parameters()
        self._check_plan(new)
        device, dtype = common_device_and_dtype(self._old)
        for name, tensor in new.items():
            path, _, leaf = name.rpartition(".")
            made = nn.Parameter(whole(tensor.detach()).contiguous(), tensor.requires_grad)
            move_tensors([made], device, dtype)  # user code may create it on the CPU
            self._module.get_submodule(path)._parameters[leaf] = made
        self._shard_like_siblings()
        for state in states_of(self._module):
            self._refill(state)
        unmanaged = self.new_parameters()
        if unmanaged and self._data_is_parallel:
            raise MisconfigurationException(
                f"no unit of fully_shard would reduce the gradients of the new parameters {list(unmanaged)}: apply "
                "fully_shard to the module around them in configure_model, or to the new part in the growth method."
            )
        for name, tensor in unmanaged.items():
            if tensor.requires_grad and not is_sharded(tensor):
                compare_first_gradients(name, tensor)
        for name, tensor in self._module.named_parameters():
            if name in new:
                move_notes(new[name], tensor)
        begin_anew(self._module)

    def restore(self) -> None:
        """Let the units manage what they managed before the growth, whose references have been restored."""
        for state, groups in self._groups.items():
            state._fsdp_param_groups[:] = groups
        for group, managed in self._managed.items():
            group.fsdp_params[:] = managed
        begin_anew(self._module)

    def _check_plan(self, new: dict[str, nn.Parameter]) -> None:
        by_units = {one.sharded_param for managed in self._managed.values() for one in managed if not one.is_dtensor}
        planned = {name for tensor, name in self._old.items() if is_sharded(tensor) and tensor not in by_units}
        if divided := sorted(planned & new.keys()):
            raise MisconfigurationException(
                f"growth has replaced {divided}, which a tensor-parallel plan divides among processes, and the plan "
                "does not say how to divide the new tensors. Grow before configure_model applies the plan, grow parts "
                "outside of it, or divide these parameters by fully_shard alone."
            )

    def _shard_like_siblings(self) -> None:
        """Apply ``fully_shard`` to new parts as to their nearest siblings."""
        old = set(self._modules.values())
        for path, parent in list(self._module.named_modules()):
            if parent not in old:
                continue
            children = list(parent.named_children())
            for place, (leaf, child) in enumerate(children):
                if child in old:
                    continue
                siblings = [(abs(place - other), sibling) for other, (_, sibling) in enumerate(children)]
                before = self._modules.get(f"{path}.{leaf}" if path else leaf)  # what stood in its place comes first
                near = [before, *(sibling for _, sibling in sorted(siblings, key=lambda pair: pair[0]))]
                likes = [part for part in near if part in old and any(True for _ in states_of(part))]
                if likes:
                    _shard_like(child, likes[0])

    def _refill(self, state: State) -> None:
        """Have a unit manage the parameters that stand in its modules now."""
        # here, because they are private: the package must be importable with every torch
        from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup, _get_param_module_infos

        # in the order of the module tree: all ranks must gather the parameters of a unit in the same order
        current = {(part, name): tensor for part in own_modules(state) for name, tensor in part._parameters.items()}
        groups = state._fsdp_param_groups
        was_in: dict[Any, tuple[Any, Any]] = {}  # (module, name) -> group and record of the parameter that is gone
        for group in groups:
            for one in list(group.fsdp_params):
                key = (one._module_info.module, one._module_info.param_name)
                if current.get(key) is not one.sharded_param:
                    was_in[key] = group, one
                    group.fsdp_params.remove(one)
                    one._post_load_hook_handle.remove()  # else it would adopt the next parameter of its name
        managed = managed_parameters(self._module)
        new = [tensor for tensor in current.values() if tensor is not None and tensor not in self._old]
        new = list(dict.fromkeys(tensor for tensor in new if tensor not in managed))
        for tensor, info in zip(new, _get_param_module_infos(new, state._modules), strict=True) if new else ():
            group, before = was_in.get((info.module, info.param_name), (next(iter(groups), None), None))
            if group is None:
                # a unit that had no parameters of its own keeps no settings: take those of the first unit
                like = next(iter(self._managed))
                groups.append(
                    FSDPParamGroup(
                        [tensor],
                        state._modules,
                        mesh_info=like.mesh_info,
                        post_forward_mesh_info=like.mesh_info,
                        device=like.device,
                        shard_placement_fn=None,
                        mp_policy=like.mp_policy,
                        offload_policy=like.offload_policy,
                    )
                )
                continue
            placement = None if before is None else before.fsdp_placement
            group.fsdp_params.append(
                FSDPParam(
                    tensor,
                    info,
                    mesh_info=group.mesh_info,
                    post_forward_mesh_info=group.post_forward_mesh_info,
                    device=group.device,
                    shard_placement_fn=None if placement is None else partial(_given, placement),
                    mp_policy=group.mp_policy,
                    offload_policy=group.offload_policy,
                )
            )
        groups[:] = [group for group in groups if group.fsdp_params]


def _given(placement: Any, parameter: nn.Parameter) -> Any:
    return placement


def _shard_like(part: nn.Module, like: nn.Module) -> None:
    """Apply ``fully_shard`` inside a new part as it was applied inside another, to the innermost modules first."""
    for path, unit in reversed(list(like.named_modules())):
        parts = dict(part.named_modules())
        target = parts.get(path)
        if not isinstance(unit, FSDPModule) or target is None or isinstance(target, FSDPModule):
            continue
        state = unit._get_fsdp_state()
        if not state._fsdp_param_groups or next(target.parameters(), None) is None:
            continue
        group = state._fsdp_param_groups[0]
        own = {tensor: name for name, tensor in unit.named_parameters()}
        placements = {own.get(one.sharded_param): one.fsdp_placement for one in group.fsdp_params}
        names = {tensor: name for name, tensor in target.named_parameters()}
        after = group.post_forward_mesh_info
        fully_shard(
            target,
            mesh=group.mesh_info.mesh,
            # as torch keeps the argument: None for "as the place of the unit demands", else a mesh of some size or none
            reshard_after_forward=None
            if state._auto_reshard_after_forward
            else (after is group.mesh_info or (after is not None and after.shard_mesh_size)),
            shard_placement_fn=lambda tensor, names=names, placements=placements: placements.get(names[tensor]),
            mp_policy=group.mp_policy,
            offload_policy=group.offload_policy,
        )
