"""The first gradient of a new parameter is compared by all processes, or by none."""

import torch
from torch import nn

from structurenet_pl.distributed.newborn_gradients import compare_first_gradients


def test_a_process_whose_gradient_was_taken_away_does_not_let_the_others_wait(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, operation: sent.append(tensor.clone()))
    parameter = nn.Parameter(torch.ones(2))
    parameter.register_post_accumulate_grad_hook(lambda tensor: setattr(tensor, "grad", None))
    compare_first_gradients("new", parameter)
    for _ in range(2):
        parameter.sum().backward()
    assert [tensor.tolist() for tensor in sent] == [[[0, 0], [0, 0]]]
