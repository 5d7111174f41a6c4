"""Growth under DDP, two gloo processes: ranks stay equal to the last bit, or all say why not."""

import re
import subprocess
import sys
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

import ddp_worker
import left_alone_worker
from ddp_worker import BATCHES, EPOCHS, FAILS, RESUMED, SAYS, TRAINS, train
from helpers import assert_same, fit, loader
from rank_processes import (
    assert_as_one_process,
    assert_equal_ranks,
    assert_refused,
    assert_resumed,
    largest_difference,
    run_ranks,
    start_ranks,
)
from structurenet_pl.distributed.checksums import checksums
from structurenet_pl.distributed.ddp import _convert_batch_norms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def ranks(folder):
    return run_ranks(ddp_worker, "first", folder)


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    assert_equal_ranks(ranks, name)
    assert bool(ranks[0][name]["log"]) == (name != "never"), "it should have grown"


@pytest.mark.parametrize("name", [name for name in TRAINS if name != "itself"])
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(TRAINS[name], ranks[0][name])


def test_growth_requested_in_mid_epoch_waits_for_the_end_of_the_epoch(ranks):
    (neck, at), (patch, then) = ranks[0]["itself"]["log"]
    # the neck was asked for in the second batch, the patch by the module when the second epoch ended
    assert (neck, at.step, at.epoch) == ("add_neck", 4, 1)
    assert (patch, then.step, then.epoch) == ("add_patch", 8, 2)


def test_ranks_diverge_where_ddp_is_not_wrapped_again(ranks):
    assert largest_difference(*(rank["control"] for rank in ranks)) > 1e-3


@pytest.mark.parametrize("name", ["never", "setup"])
def test_ranks_exchange_only_flags_where_no_growth_waits(ranks, name):
    validations = EPOCHS + 1  # and the sanity check
    assert ranks[0][name]["cost"] == (2 * EPOCHS + validations, 0)


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_that_agree_send_nothing_that_grows_with_the_network(ranks, name):
    longest_question = 300  # bytes: the names of all growth that waits
    assert max(rank[name]["largest"] for rank in ranks) < longest_question


@pytest.mark.parametrize("name", FAILS)
def test_every_rank_raises_and_none_has_grown(ranks, name):
    assert_refused(ranks, name, SAYS[name])


GONE = {
    "growth": r"in add_and_leave\(\), another process has ended or did not answer",
    "on_growth": r"after add_neck\(\), in the on_growth hooks, another process has ended",
    "freeze": r"at step 8, another process has ended",
    "checkpoint": r"writing a checkpoint, another process has ended",
    "file": "Connection",  # Lightning waits there, and says no more than gloo does
}


@pytest.mark.parametrize("moment", GONE)
def test_a_lost_process_is_reported_with_the_moment_and_the_last_checkpoint_resumes(moment, tmp_path):
    processes = start_ranks(left_alone_worker, moment, tmp_path)
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
    for found in run_ranks(left_alone_worker, "freezes alone", tmp_path):
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


def test_growth_requested_after_the_last_epoch_is_not_carried_out_and_warned_of(ranks):
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
    assert_resumed(run_ranks(ddp_worker, "second", folder), ranks, RESUMED)


def test_a_run_of_two_processes_is_resumed_on_one(ranks, folder):
    alone = train(TRAINS["epoch"], ckpt_path=folder / "epoch" / "half.ckpt")
    assert alone["error"] is None
    assert largest_difference(alone, ranks[0]["epoch"]) < 1e-5


def test_a_run_of_one_process_is_resumed_on_two(ranks, folder):
    save = ModelCheckpoint(folder / "alone", filename="half", save_on_train_epoch_end=True)
    assert train(TRAINS["epoch"], more=[save], epochs=EPOCHS // 2)["error"] is None
    first, second = run_ranks(ddp_worker, "from_one", folder)
    assert first["error"] is second["error"] is None
    assert_same(first["weights"], second["weights"])
    assert_same(first["optimizer"], second["optimizer"])
    assert first["log"] == ranks[0]["epoch"]["log"]
    # the same global batches, but gradients are summed in another order in the first half
    assert largest_difference(first, ranks[0]["epoch"]) < 1e-5


def test_spawned_and_forked_processes_return_the_grown_module(folder):
    command = [sys.executable, "-W", "ignore", ddp_worker.__file__, "launch", str(folder)]
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
