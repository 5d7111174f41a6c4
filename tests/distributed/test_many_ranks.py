"""Growth under FSDP2 for one of many ranks, simulated: what it sends and holds does not grow with their number."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WIDTH, FEW, MANY = 256, 10, 1000
PROGRAM = f"""
import dataclasses, json, torch
from examples.benchmarks.many_ranks import simulate
torch.set_num_threads(1)
costs = {{ranks: simulate(ranks, {WIDTH}, blocks=4) for ranks in ({FEW}, {MANY})}}
print(json.dumps({{ranks: {{name: dataclasses.asdict(cost) for name, cost in found.items()}}
    for ranks, found in costs.items()}}))
"""
MATRIX = 4 * WIDTH * WIDTH  # bytes
BLOCK = MATRIX * (9 + 21 + 21) // 4 + 4 * (21 * WIDTH // 4 + WIDTH)
WIDER = 2 * MATRIX * 6 + 4 * (6 * WIDTH + WIDTH)


@pytest.fixture(scope="module")
def costs():
    # in a process of its own, because the fake process group is global
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found[str(FEW)], found[str(MANY)]


@pytest.mark.parametrize("name", ["deeper", "wider"])
def test_messages_do_not_grow_with_the_ranks(costs, name):
    few, many = costs[0][name], costs[1][name]
    assert few["messages"] == many["messages"] < 40
    assert few["received"]["broadcast"] == many["received"]["broadcast"]
    for cost, ranks in ((few, FEW), (many, MANY)):
        assert cost["received"]["reports"] < 400 * ranks  # a few digests of each rank


def test_a_new_block_is_sent_once_and_nothing_is_gathered(costs):
    for cost in (found["deeper"] for found in costs):
        assert cost["received"]["broadcast"] == BLOCK
        assert cost["received"]["gathered"] == 0
        assert BLOCK < cost["peak"] < 1.2 * BLOCK


def test_a_wider_layer_is_gathered_tensor_by_tensor(costs):
    few = costs[0]["wider"]
    assert few["received"]["broadcast"] == WIDER
    # both matrices with two moments each, and padding to equal shards
    assert 3 * 2 * MATRIX * 21 / 4 < few["received"]["gathered"] < 1.1 * 3 * 2 * MATRIX * 21 / 4
    # the new tensors are whole until the growth method returns, the old ones are whole one by one
    assert few["peak"] < WIDER + 7 * MATRIX
