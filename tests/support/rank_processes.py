"""Starts the processes of a distributed run, each at one part of a worker, and compares their results."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from ddp_worker import WORLD, train
from helpers import assert_same


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start_ranks(worker, part, folder, world=WORLD):
    """Start a process for each rank at a part of a worker, which is a module of this folder."""
    # with one PL_GLOBAL_SEED all ranks would draw the same numbers, which hides many errors
    environment = {key: value for key, value in os.environ.items() if key != "PL_GLOBAL_SEED"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "NODE_RANK": "0"}
    command = [sys.executable, "-W", "ignore", worker.__file__, part, str(folder)]
    return [
        subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]


def run_ranks(worker, part, folder, world=WORLD):
    """The results of a part of a worker, by rank. A process that hangs is an error after ten minutes."""
    processes = start_ranks(worker, part, folder, world)
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, errors
    return [torch.load(folder / f"{part}-{rank}.pt", weights_only=False) for rank in range(world)]


def largest_difference(one, other):
    """The largest difference between the weights of two networks of the same structure."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((value - other["weights"][name]).abs().max()) for name, value in one["weights"].items())


def assert_equal_ranks(ranks, name):
    """Two ranks have trained without an error, and are equal to the last bit."""
    first, second = (rank[name] for rank in ranks)
    assert (first["error"], second["error"]) == (None, None)
    for part in ("weights", "optimizer", "log"):
        assert_same(first[part], second[part])


def assert_refused(ranks, name, message):
    """Every rank has raised, and none has grown."""
    for rank in ranks:
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(rank[name]["error"])
        assert rank[name]["log"] == []
        assert not any("patches" in tensor or "necks" in tensor for tensor in rank[name]["weights"])


def assert_as_one_process(row, result):
    """One process with the same batches gives the same result, to rounding."""
    torch.set_num_threads(1)
    alone = train({key: value for key, value in row.items() if key != "ddp"})
    assert alone["error"] is None
    assert alone["log"] == result["log"]
    assert largest_difference(alone, result) < 1e-5


def assert_resumed(resumed, ranks, names):
    """The second half in new processes equals the uninterrupted run, bit for bit."""
    for whole, half in zip(ranks, resumed, strict=True):
        for name in names:
            assert half[name]["error"] is None, (name, half[name]["error"])
            for part in ("log", "weights", "optimizer", "rng"):
                assert_same(half[name][part], whole[name][part])
