"""The units of FSDP2 in a module, read from private attributes of torch's state of each unit."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

FSDPModule: Any = ()  # isinstance(module, ()) is False: a torch without distributed has no units
if torch.distributed.is_available():
    from torch.distributed.fsdp import FSDPModule as FSDPModule

State = Any  # torch's FSDPState, one for each call of fully_shard


def states_of(module: nn.Module) -> Iterator[State]:
    """The state of each call of ``fully_shard`` in a module, the outermost first."""
    yield from dict.fromkeys(part._get_fsdp_state() for part in module.modules() if isinstance(part, FSDPModule))


def managed_parameters(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that units manage, as each process holds them."""
    groups = [group for state in states_of(module) for group in state._fsdp_param_groups]
    return {one.sharded_param for group in groups for one in group.fsdp_params}


def own_modules(state: State) -> Iterator[nn.Module]:
    """The modules whose parameters a unit manages: all inside it that are in no other unit."""
    waiting = list(state._modules)
    while waiting:
        part = waiting.pop(0)
        yield part
        waiting += [
            child for child in part.children() if not isinstance(child, FSDPModule) or child._get_fsdp_state() is state
        ]


def begin_anew(module: nn.Module) -> None:
    """Have torch set the units up again in the next forward pass, as it does in the first one.

    It finds out which unit is the outermost, and gives all units in it one context.
    """
    for state in states_of(module):
        state._is_root = None
        state._state_ctx = type(state._state_ctx)()
        for group in state._fsdp_param_groups:
            group._module_fqn = None
            for handles in (
                group._module_to_pre_save_state_dict_hook_handle,
                group._module_to_pre_load_state_dict_hook_handle,
            ):
                while handles:
                    handles.popitem()[1].remove()
