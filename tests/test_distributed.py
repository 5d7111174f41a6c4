"""Growth under DDP, two gloo processes: ranks stay equal to the last bit, or all say why not."""

import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import left_alone_worker
import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

import ddp_worker
from ddp_worker import BATCHES, EPOCHS, FAILS, RESUMED, TRAINS, train
from helpers import assert_same, fit, loader
from structurenet_pl.distributed.checksums import checksums
from structurenet_pl.distributed.ddp import _convert_batch_norms

pytestmark = pytest.mark.slow

WORKER = Path(ddp_worker.__file__)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(part, folder, worker, world=ddp_worker.WORLD):
    """Processes at a part of a worker."""
    place = {key: value for key, value in os.environ.items() if key != "PL_GLOBAL_SEED"}  # equal seeds would hide a lot
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "NODE_RANK": "0"}
    command = [sys.executable, "-W", "ignore", str(worker), part, str(folder)]
    return [
        subprocess.Popen(command, env=place | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]


def both(part, folder, worker=ddp_worker.__file__, world=ddp_worker.WORLD):
    """What two processes make of a part of a worker, by rank. They run into a timeout rather than wait forever."""
    processes = start(part, folder, worker, world)
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, said
    return [torch.load(folder / f"{part}-{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def ranks(folder):
    return both("first", folder)


def apart(one, other):
    """The largest difference between two networks of the same structure."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((value - other["weights"][name]).abs().max()) for name, value in one["weights"].items())


def assert_as_one_process(row, found):
    """What was found is what one process makes of the same batches, to rounding."""
    torch.set_num_threads(1)
    alone = train({key: value for key, value in row.items() if key != "ddp"})
    assert alone["error"] is None
    assert alone["log"] == found["log"]
    assert apart(alone, found) < 1e-5


def assert_resumed(resumed, ranks, names):
    """What new processes have made of the second half is what it was in one go, bit for bit."""
    for whole, half in zip(ranks, resumed, strict=True):
        for name in names:
            assert half[name]["error"] is None
            for part in ("log", "weights", "optimizer", "rng"):
                assert_same(half[name][part], whole[name][part])


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert (first["error"], second["error"]) == (None, None)
    assert bool(first["log"]) == (name != "never"), "it should have grown"
    assert_same(first["weights"], second["weights"])
    assert_same(first["optimizer"], second["optimizer"])
    assert first["log"] == second["log"]


@pytest.mark.parametrize("name", [name for name in TRAINS if name != "itself"])
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(TRAINS[name], ranks[0][name])


def test_what_is_asked_for_in_mid_epoch_waits_for_its_end(ranks):
    (neck, at), (patch, then) = ranks[0]["itself"]["log"]
    # the neck was asked for in the second batch, the patch by the module when the second epoch ended
    assert (neck, at.step, at.epoch) == ("add_neck", 4, 1)
    assert (patch, then.step, then.epoch) == ("add_patch", 8, 2)


def test_without_our_wrapping_the_ranks_go_apart(ranks):
    assert apart(*(rank["control"] for rank in ranks)) > 1e-3


@pytest.mark.parametrize("name", ["never", "setup"])
def test_nothing_but_flags_where_nothing_waits(ranks, name):
    validations = EPOCHS + 1  # and the sanity check
    assert ranks[0][name]["cost"] == (2 * EPOCHS + validations, 0)


SAYS = {
    "one-rank": r"different growth \(rank 0: nothing; rank 1: add_neck\(\)\)",
    "one-rank-validation": r"different growth \(rank 0: add_neck\(\); rank 1: nothing\)",
    "broken": "no room",
    "uneven": r"undone on every rank.*rank 1 differs from rank 0 in 'patches.0.weight': torch.float32\[16, 8\] there",
    "arguments": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': .*{\"at\": 1}.* there",
    "diverged": r"before add_patch\(at=1, inner=4\), rank 1 differs from rank 0 in 'head.bias'",
    "positions": r"shuffle\(\) was undone on every rank.*in 'where the entries of body.0.weight come from'",
    "one-trigger": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': None there",
    "other-trigger": r"at the start of the fit, rank 1 differs from rank 0 in 'GrowEvery \(0\)': .*\"every\": 2",
    "factor": r"at step 4 the learning rates differ: .*sync_dist=True.*in 'the lr of body.0 in optimizer 0': ",
    "sharded": "not supported under ModelParallelStrategy.*grow before the fit",
}


@pytest.mark.parametrize("name", FAILS)
def test_every_rank_raises_and_none_has_grown(ranks, name):
    for rank in ranks:
        with pytest.raises(AssertionError, match=SAYS[name]):
            raise AssertionError(rank[name]["error"])
        assert rank[name]["log"] == []
        assert not any("patches" in tensor or "necks" in tensor for tensor in rank[name]["weights"])


GONE = {
    "growth": r"in add_and_leave\(\), another process has ended or did not answer",
    "on_growth": r"after add_neck\(\), in the on_growth hooks, another process has ended",
    "freeze": r"at step 8, another process has ended",
    "checkpoint": r"writing a checkpoint, another process has ended",
    "file": "Connection",  # Lightning waits there, and says no more than gloo does
}


@pytest.mark.parametrize("moment", GONE)
def test_a_process_that_is_gone_is_said_with_the_moment_and_the_last_checkpoint_resumes(moment, tmp_path):
    processes = start(moment, tmp_path, left_alone_worker.__file__)
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert processes[1].returncode == left_alone_worker.GONE, said
    found = torch.load(tmp_path / f"{moment}-0.pt")
    assert re.search(GONE[moment], found["error"]), found["error"]
    assert found["seconds"] < left_alone_worker.TIMEOUT
    last = max((tmp_path / "saved").iterdir(), key=lambda path: path.stat().st_mtime)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, that callbacks and number of processes are others
        trainer = fit(left_alone_worker.Leaves(), data=loader(BATCHES), ckpt_path=last)
    assert trainer.global_step > 8


def test_one_rank_that_freezes_alone_is_an_error_on_every_rank(tmp_path):
    for found in both("freezes alone", tmp_path, left_alone_worker.__file__):
        assert re.search(
            r"at step 8 the learning rates differ.*'the lr of body.0 in optimizer 0': 0.0 there", found["error"]
        )
        assert found["seconds"] < left_alone_worker.TIMEOUT


def test_checksums_see_a_change_and_a_permutation():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool):
        one = (torch.arange(3_000_000) % 101).to(dtype)
        other, swapped = one.clone(), one.clone()
        other[2_999_999] = ~one[2_999_999] if dtype == torch.bool else one[2_999_999] + 1
        swapped[[5, 2_000_000]] = one[[2_000_000, 5]]
        moved = torch.cat([one[1 << 20 : 2 << 20], one[: 1 << 20], one[2 << 20 :]])
        found = checksums([one, other, swapped, moved, one.clone()])
        assert found[0] == found[4]
        assert len(set(found)) == (4 if dtype != torch.bool else len(set(found))) > 2


def test_growth_asked_for_when_all_is_over_is_said_not_to_come(ranks):
    assert ranks[0]["late"]["log"] == []
    assert any("after the last epoch was not carried out: add_neck()" in said for said in ranks[0]["late"]["warned"])


def test_training_goes_on_after_a_growth_that_failed_on_one_rank(ranks):
    first, second = (rank["forgiven"] for rank in ranks)
    assert first["error"] == "add_broken() raised ValueError: no room on rank 1, and was undone on every rank"
    assert second["error"] == "no room"
    assert "where the entries of" in ranks[0]["forgiven-shuffled"]["error"]
    for rank in ranks:
        assert_same(rank["forgiven"]["weights"], ranks[0]["never"]["weights"])
        assert_same(rank["forgiven-shuffled"]["weights"], ranks[0]["never"]["weights"])


def test_resumed_in_new_processes_bit_for_bit(ranks, folder):
    assert_resumed(both("second", folder), ranks, RESUMED)


def test_a_run_of_two_processes_is_resumed_on_one(ranks, folder):
    alone = train(TRAINS["epoch"], ckpt_path=folder / "epoch" / "half.ckpt")
    assert alone["error"] is None
    assert apart(alone, ranks[0]["epoch"]) < 1e-5


def test_spawned_and_forked_processes_hand_the_grown_module_back(folder):
    command = [sys.executable, "-W", "ignore", str(WORKER), "launch", str(folder)]
    subprocess.run(command, check=True, timeout=180)
    for found in torch.load(folder / "launch.pt", weights_only=False).values():
        assert found["log"] == [("patches.0",), ("patches.1",)]
        assert all(f"patches.{index}.2.weight" in found["weights"] for index in (0, 1))


def test_newborn_batch_norms_are_synchronized_like_the_others():
    # DDP takes them on GPUs only
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)))
    sync = TorchSyncBatchNorm()
    module[0] = old = sync.apply(module[0])
    weight = old.weight
    _convert_batch_norms(module, sync.apply)
    assert module[0] is old
    assert module[0].weight is weight
    assert isinstance(module[1][1], nn.SyncBatchNorm)


assert SAYS.keys() == FAILS.keys()
