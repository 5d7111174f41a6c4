"""The examples run and print what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import assert_same

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, cwd=cwd
    )


@pytest.mark.slow
def test_growing_digits(tmp_path):
    done = run(EXAMPLES / "growing_digits.py", "--logdir", tmp_path)
    assert done.returncode == 0, done.stderr
    for component in ("scaffold.0", "scaffold.1", "scaffold.2", "patches.0", "patches.1", "necks.0", "head"):
        assert re.search(rf"^ *{re.escape(component)} ", done.stdout, re.MULTILINE)
    assert float(re.search(r"test_accuracy\W+([\d.]+)", done.stdout)[1]) >= 0.95
    assert "tensorboard --logdir" in done.stdout
    for name, size in {"strata.png": (1000, 500), "growth.png": (1100, 450)}.items():
        (picture,) = tmp_path.rglob(name)
        with Image.open(picture) as image:
            assert image.size == size
    assert list(tmp_path.rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_newborn_norms(tmp_path):
    done = run(EXAMPLES / "newborn_norms.py", "--epochs", 3, "--logdir", tmp_path)
    assert done.returncode == 0, done.stderr
    for newborn in ("blocks.0@1", "blocks.1@1", "head@1", "blocks.2"):
        line = (
            rf"{re.escape(newborn)} \(born at step \d+\): \d+ % of the gradient and \d+ % of the update per weight of"
        )
        assert re.search(line, " ".join(done.stdout.split()))
    (picture,) = tmp_path.rglob("norms.png")
    with Image.open(picture) as image:
        assert image.size == (720, 259)


@pytest.mark.slow
def test_growing_stack_under_ddp_and_fsdp2():
    losses = []
    for strategy in ("ddp", "fsdp2"):
        done = run(EXAMPLES / "growing_stack.py", "--strategy", strategy, "--epochs", 3, "--every", 1, "--rows", 128)
        assert done.returncode == 0, done.stderr
        said = re.search(r"3 blocks on 2 process\(es\): loss of a word ([\d.]+) on held-out texts", done.stdout)
        losses.append(float(said[1]))
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


@pytest.fixture(scope="module")
def grown_cnn(tmp_path_factory):
    """The output of a whole run, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("cnn")
    done = run(EXAMPLES / "growing_cnn.py", "--logdir", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, last_checkpoint(folder)


def last_checkpoint(folder):
    return torch.load(folder / "growing_cnn" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_growing_cnn(grown_cnn):
    printed, _ = grown_cnn
    log = re.findall(r"^ +from epoch \d+, step \d+ on: (\w+) (.*)$", printed, re.MULTILINE)
    assert [kind for kind, _ in log[:2]] == ["widened", "born"]
    assert log[0][1] == "blocks.0, blocks.1, head"
    for component in ("blocks.0", "blocks.1", "blocks.2", "head"):
        assert re.search(rf"^ *{re.escape(component)} .* \d", printed, re.MULTILINE)
    told = " ".join(printed.split())  # lines end where 80 columns end
    assert re.search(r"widened blocks\.0.*? \(new\): new entries have lr \S+ = \S+ × 0\.333 Warmup", told)  # noqa: RUF001
    assert float(re.search(r"test_accuracy\W+([\d.]+)", printed)[1]) >= 0.95


@pytest.mark.slow
def test_growing_cnn_resumes(grown_cnn, tmp_path):
    printed, whole = grown_cnn
    first = run(EXAMPLES / "growing_cnn.py", "--logdir", tmp_path, "--epochs", 9)
    assert first.returncode == 0, first.stderr
    assert 0 < first.stdout.count("from epoch") < printed.count("from epoch")
    second = run(EXAMPLES / "growing_cnn.py", "--logdir", tmp_path, "--resume")
    assert second.returncode == 0, second.stderr
    resumed = last_checkpoint(tmp_path)
    for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(resumed[key], whole[key])


@pytest.mark.slow
def test_growing_cnn_says_what_to_resume_from(tmp_path):
    done = run(EXAMPLES / "growing_cnn.py", "--resume", "--logdir", tmp_path)
    assert done.returncode == 2
    assert "to resume from" in done.stderr


@pytest.mark.slow
def test_growing_vocabulary():
    done = run(EXAMPLES / "growing_vocabulary.py", "--epochs", 2, "--more-epochs", 4, "--words", 200)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "The 200 most frequent" in done.stdout
    cells = {
        title.strip(): [float(number) for number in re.findall(r"[\d.]+", rest)]
        for title, rest in re.findall(r"^│([^│]+)│(.+)│$", done.stdout, re.MULTILINE)
    }
    start, full, slow, parts, alone = (
        cells[title]
        for title in (
            "after growth",
            "all at the full lr",
            "all at 0.1",
            "new rows at 1, the rest at 0.1",
            "new rows alone",
        )
    )
    # with new rows alone least is forgotten and least is learned, with the full lr for all most
    old, new, drift = zip(alone, parts, full, strict=True)
    assert list(old) == sorted(old)
    assert start[1] > new[0] > new[1] > new[2]
    assert drift[0] == 0
    assert drift[2] > 3 * drift[1] > 0
    assert slow[1] > parts[1]  # a low lr for all learns new words more slowly
    assert re.search(r"old words moved 0\.\d+ times as far", done.stdout)


@pytest.mark.slow
def test_freeze_out():
    done = run(EXAMPLES / "recipes" / "freeze_out.py", "--epochs", 6)
    assert done.returncode == 0, done.stderr
    estimate, counted = (int(share) for share in re.findall(r"Work saved if .* (\d+)%", done.stdout))
    assert 20 < estimate < counted < 60
    assert float(re.search(r"without ([\d.]+)", done.stdout)[1]) > 0.9


@pytest.mark.slow
def test_fine_tuning(tmp_path):
    script = EXAMPLES / "fine_tuning.py"
    first = run(script, "fit", "--config", EXAMPLES / "fine_tuning.yaml")
    assert "there is no backbone in logs/fine_tuning/pretrained" in first.stderr  # and how to get one
    done = run(script, "--pretrain-epochs", 6, "--epochs", 12, "--seeds", 1)
    assert done.returncode == 0, done.stderr
    cells = {
        title.strip(): [float(number) for number in re.findall(r"[\d.]+", rest)]
        for title, rest in re.findall(r"^│([^│]+)│(.+)│$", done.stdout, re.MULTILINE)
    }
    (pretrained,) = cells.pop("pretrained")
    assert len(cells) == 6
    assert cells["the head alone"][1] == pretrained > 0.7  # the backbone has not changed
    assert cells["one lr for all"][1] < cells['recommended("finetune")'][1] <= pretrained
    assert all(new > 0.25 for new, _ in cells.values())  # chance is 0.2
    # the command line, up to the epoch after the thaw
    done = run(script, "fit", "--config", EXAMPLES / "fine_tuning.yaml", "--trainer.max_epochs=11")
    assert done.returncode == 0, done.stderr
    log = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent)).Reload()
    block, head = ([event.value for event in log.Scalars(f"lr/{name}")] for name in ("vit.embeddings", "classifier"))
    assert block[0] == 0.0
    assert block[-1] == pytest.approx(0.75**5 * head[-1])
    assert head[0] == head[-1] == pytest.approx(1e-3)


@pytest.mark.slow
def test_twelve_strategies():
    done = run(EXAMPLES / "twelve_strategies.py")
    assert done.returncode == 0, done.stdout + done.stderr
    for strategy in range(1, 13):
        assert re.search(rf"^ *{strategy} \w", done.stdout, re.MULTILINE)
    assert "combined" in done.stdout
    assert "All learning rates equal" in done.stdout
    assert not done.stderr  # no banners of its 19 Trainers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("cli.py", {"--config"}),
        ("fine_tuning.py", {"--pretrain-epochs", "--epochs", "--seeds"}),
        ("freeze_on_plateau.py", {"--epochs", "--seed", "--logdir", "--resume"}),
        ("growing_cnn.py", {"--epochs", "--seed", "--logdir", "--devices", "--resume"}),
        ("growing_digits.py", {"--epochs", "--seed", "--logdir"}),
        ("growing_vocabulary.py", {"--epochs", "--more-epochs", "--words", "--slow", "--seed"}),
        ("newborn_norms.py", set()),
        ("recipes/freeze_out.py", {"--epochs"}),
        ("twelve_strategies.py", set()),
    ],
)
def test_help_lists_the_arguments_and_trains_nothing(example, arguments, tmp_path):
    done = run(EXAMPLES / example, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert arguments <= set(re.findall(r"--[\w-]+", done.stdout))
    assert "usage" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_growing_digits_needs_epochs_to_grow_in():
    short = run(EXAMPLES / "growing_digits.py", "--epochs", "1")
    assert short.returncode == 2
    assert "at least 4" in short.stderr


@pytest.mark.slow
def test_growing_cnn_on_two_processes(tmp_path):
    done = run(EXAMPLES / "growing_cnn.py", "--devices", "2", "--epochs", "16", "--logdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"widened blocks\.0", done.stdout)
    assert float(re.search(r"test_accuracy\W+([\d.]+)", done.stdout)[1]) >= 0.93


@pytest.mark.slow
def test_freeze_on_plateau_resumes(tmp_path):
    example = EXAMPLES / "freeze_on_plateau.py"
    whole = run(example, "--logdir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    starts = [int(start) for start in re.search(r"the epochs \[(.+)\]", whole.stdout)[1].split(", ")]
    assert len(starts) >= 3
    assert re.findall(r"from epoch +(\d+) on", whole.stdout) == ["0", *map(str, starts)]
    assert float(re.search(r"with freezing ([\d.]+)", whole.stdout)[1]) >= 0.9
    for more in (["--epochs", starts[1] + 1], ["--resume"]):  # stopped while two blocks are frozen
        done = run(example, "--logdir", tmp_path / "resumed", *more)
        assert done.returncode == 0, done.stderr
    # apart from the last line, which names the folder
    assert done.stdout.splitlines()[:-1] == whole.stdout.splitlines()[:-1]
    assert "Checkpoints: " in done.stdout.splitlines()[-1]
    for name in ("frozen", "free"):
        one, other = (
            torch.load(tmp_path / folder / "freeze_on_plateau" / name / "last.ckpt", weights_only=True)
            for folder in ("whole", "resumed")
        )
        for key in ("epoch", "global_step", "state_dict", "optimizer_states"):
            assert_same(one[key], other[key])


def benchmarks(*arguments, module="examples.benchmarks"):
    return run("-m", module, *arguments, cwd=EXAMPLES.parent)


@pytest.mark.slow
def test_benchmarks_quick():
    known = re.findall(r"[\w-]+", benchmarks("--rows", "unknown").stderr.rpartition("There are: ")[2])
    done = benchmarks("--quick")
    assert done.returncode == 0, done.stderr
    assert "structurenet-pl" in done.stdout
    measured = re.findall(r"^\| `([\w-]+)` .*\|$", done.stdout, re.MULTILINE)
    assert measured == known
    assert "update-still" in known


@pytest.mark.slow
def test_benchmarks_draw_curves(tmp_path):
    picture = tmp_path / "curves.png"
    done = benchmarks("--rows", "update-still,lars-lr", "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| `update-still` ") == 3
    with Image.open(picture) as image:
        assert image.size == (520, 210)
    assert benchmarks("--quick", "--plot", picture).returncode == 2


@pytest.mark.slow
def test_benchmark_of_memory():
    done = benchmarks(module="examples.benchmarks.memory")
    assert done.returncode == 0, done.stderr
    for network in ("CNN", "MLP", "transformer"):
        kinds = re.findall(rf"^\| {network} \| (.+?) \|(?: [\d.]+ \|){{4}}$", done.stdout, re.MULTILINE)
        assert kinds == ["nothing frozen", "frozen", "frozen, release_state", "ideal"]
