"""Growth under FSDP2, two gloo processes: as on one process, or all ranks say why not."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import sharded_worker
from ddp_worker import BATCHES, EPOCHS, SAYS, train
from helpers import assert_same
from rank_processes import (
    assert_as_one_process,
    assert_equal_ranks,
    assert_refused,
    assert_resumed,
    largest_difference,
    run_ranks,
)
from sharded_worker import FAILS, IN_FILES, PLANS, RESUMED, TRAINS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def ranks(folder):
    return run_ranks(sharded_worker, "growth", folder)


@pytest.mark.parametrize("name", TRAINS)
def test_ranks_are_equal_to_the_last_bit(ranks, name):
    assert_equal_ranks(ranks, name)


# where ranks decide differently, all of them call the method a second time, with other random numbers
AGAIN = ("chance", "decided", "decided-copy")
STAGES = dict.fromkeys(
    ("wider-sometimes", "wider-caught"), r"rank 1 has returned, but rank 0 gathers (FSDP)?Linear \{'weight'"
)


@pytest.mark.parametrize("name", [name for name in TRAINS if name not in ("itself", *AGAIN)])
def test_equal_to_one_process_on_the_same_batches(ranks, name):
    assert_as_one_process(TRAINS[name], ranks[0][name])


def test_ranks_diverge_where_new_parameters_are_not_divided(ranks):
    assert largest_difference(*(rank["control"] for rank in ranks)) > 1e-3


@pytest.mark.parametrize("name", FAILS)
def test_every_rank_raises_and_none_has_grown(ranks, name):
    assert_refused(ranks, name, (SAYS | STAGES)[name])


@pytest.mark.parametrize("name", ["forgiven", "forgiven-shuffled"])
def test_training_goes_on_after_a_growth_that_failed_on_one_rank(ranks, name):
    assert "undone on every rank" in ranks[0][name]["error"]
    for rank in ranks:
        assert_same(rank[name]["weights"], ranks[0]["never"]["weights"])


def test_resumed_in_new_processes_bit_for_bit(ranks, folder):
    assert_resumed(run_ranks(sharded_worker, "second", folder), ranks, RESUMED)


def test_resumed_on_one_process(ranks, folder):
    (found,) = run_ranks(sharded_worker, "on_one", folder, world=1)
    for name in RESUMED:
        assert found[name]["error"] is None
        assert found[name]["log"] == ranks[0][name]["log"]
        assert largest_difference(found[name], ranks[0][name]) < 1e-5


@pytest.mark.parametrize("name", IN_FILES)
def test_a_file_is_resumed_on_one_process_without_fsdp(ranks, folder, name):
    alone = train(TRAINS[name], ckpt_path=folder / name / "half.ckpt")
    assert alone["error"] is None
    assert largest_difference(alone, ranks[0][name]) < 1e-5


def test_a_run_of_one_process_is_resumed_under_fsdp(ranks, folder):
    save = ModelCheckpoint(folder / "alone", filename="half", save_on_train_epoch_end=True)
    assert train(TRAINS["restructured-adam"], more=[save], epochs=EPOCHS // 2)["error"] is None
    first, second = run_ranks(sharded_worker, "from_one", folder)
    assert first["error"] is second["error"] is None
    assert_same(first["weights"], second["weights"])
    assert_same(first["optimizer"], second["optimizer"])
    assert largest_difference(first, ranks[0]["restructured-adam"]) < 1e-5


@pytest.mark.parametrize("part", ["from_ddp", "to_ddp"])
def test_a_run_goes_on_under_the_other_strategy(ranks, folder, part):
    resumed = run_ranks(sharded_worker, part, folder)
    for name in IN_FILES:
        assert_equal_ranks(resumed, name)
        assert resumed[0][name]["log"] == ranks[0][name]["log"]
        assert largest_difference(resumed[0][name], ranks[0][name]) < 1e-5  # the strategies sum in another order


def test_monitor_and_explain_speak_of_whole_tensors(tmp_path):
    first, second = run_ranks(sharded_worker, "monitor", tmp_path)
    alone = sharded_worker.seen({}, 0, 1)
    assert first["error"] is second["error"] is alone["error"] is None
    assert first == second
    assert [row.keys() for row in first["norms"]] == [row.keys() for row in alone["norms"]]
    assert len(first["norms"]) == EPOCHS * BATCHES
    for row, expected in zip(first["norms"], alone["norms"], strict=True):
        for key, norms in row.items():
            assert norms == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key
    assert [(title, size) for title, _, size in first["explained"]] == [row[::2] for row in alone["explained"]]
    assert [lr for _, lr, _ in first["explained"]] == pytest.approx([lr for _, lr, _ in alone["explained"]], rel=1e-4)


def test_a_tensor_parallel_plan_has_factors_and_growth_outside_of_it(tmp_path):
    first, second = run_ranks(sharded_worker, "plans", tmp_path)
    for name in ("factors", "outside"):
        assert first[name]["error"] is second[name]["error"] is None
        assert_same(first[name]["weights"], second[name]["weights"])
        assert_as_one_process({"callbacks": PLANS[name]}, first[name])
    assert first["outside"]["log"]
    for rank in (first, second):
        assert "'body.0.bias', 'body.0.weight'" in rank["inside"]["error"]
        assert "a tensor-parallel plan divides among processes" in rank["inside"]["error"]
        assert rank["inside"]["log"] == []
        assert "gradients of the new parameter 'body.1.weight' differ" in rank["between"]["error"]
