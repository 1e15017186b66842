"""Two processes that train together: they draw different volumes, share gradients, speak with one voice and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_pair
from torch.utils.data import DataLoader, IterableDataset

from qsmdl.challenge.guard import check_record
from qsmdl.cli import train as train_module
from qsmdl.cli.processes import check_strategy, follower_words, started_by_first_process
from qsmdl.data.datamodule import PhantomData
from qsmdl.data.sources import n_volumes_drawn
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights
from qsmdl.training.callbacks import SameStream

ROOT = Path(__file__).parents[2]
QUIET = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
)


def environment(**more):
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of three trainings by two processes (`training_pair`), and what each process drew and ended with."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "pair"}
        command = [sys.executable, str(ROOT / "tests" / "training_pair.py"), str(folder)]
        variables = environment(**torchrun, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        started.append(subprocess.Popen(command, env=variables, cwd=folder, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    return folder, [torch.load(folder / f"process_{rank}.pt", weights_only=True) for rank in "01"], said


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], **tolerance) if tolerance else torch.equal(a[name], b[name]), name


def test_no_volume_is_drawn_twice(pair):
    _, (first, second), _ = pair
    assert sorted(first["whole"]["drawn"]) == [0, 2]
    assert sorted(second["whole"]["drawn"]) == [1, 3]


def test_weights_are_the_same_in_both_processes(pair):
    _, (first, second), _ = pair
    same(first["whole"]["weights"], second["whole"]["weights"])
    assert first["whole"]["validation"] == second["whole"]["validation"]


class BothAtOnce(IterableDataset):
    """The batches of both processes as one."""

    def __init__(self, streams):
        self.streams = streams

    def __iter__(self):
        for batches in zip(*self.streams, strict=True):
            yield {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@QUIET
def test_gradients_are_averaged(pair, tmp_path, monkeypatch):
    """One process that sees the batches of both comes to the same weights and the same score, to rounding."""
    _, (first, _), _ = pair
    original = PhantomData.train_dataloader

    class Alone:
        global_step = 0
        world_size = 2

        def __init__(self, rank):
            self.global_rank = rank

    def both(data):
        trainer, streams = data.trainer, []
        for rank in range(2):
            data.trainer = Alone(rank)
            streams.append(original(data).dataset)
        data.trainer = trainer
        return DataLoader(BothAtOnce(streams), batch_size=None)

    monkeypatch.setattr(PhantomData, "train_dataloader", both)
    found = training_pair.Watch(monkeypatch.setattr).fit(training_pair.config(), tmp_path)
    assert sorted(found["drawn"]) == [0, 1, 2, 3]
    begun = train_module.make_module(training_pair.config()).network.state_dict()
    assert max(float((found["weights"][name] - begun[name]).abs().max()) for name in begun) > 1e-3
    same(found["weights"], first["whole"]["weights"], rtol=1e-4, atol=1e-6)
    assert found["validation"] == pytest.approx(first["whole"]["validation"], rel=1e-4)


def test_one_process_writes_and_speaks(pair):
    folder, _, (first, second) = pair
    assert "Training" in first
    assert [line for line in second.splitlines() if not line.startswith("Initializing distributed")] == []
    written = {path.name for path in (folder / "whole").rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith("events")} == {"weights.safetensors", "best.ckpt", "last.ckpt", "hparams.yaml"}
    assert len(list((folder / "whole").rglob("events*"))) == 1


def test_the_record_counts_the_volumes_of_both(pair):
    folder, processes, _ = pair
    tensors, card = load_weights(folder / "whole" / "weights.safetensors")
    assert check_record(card, tensors).clean
    assert card["record"]["sources"][0]["n_volumes"] == 4 == 1 + max(index for process in processes for index in process["whole"]["drawn"])
    assert card["training"]["n_processes"] == 2


def test_a_signal_to_one_stops_both_and_both_go_on_to_the_same_weights(pair):
    folder, (first, second), (said, _) = pair
    assert (first["stopped"]["status"], second["stopped"]["status"]) == (130, 0)
    assert torch.load(folder / "stopped" / "checkpoints" / "interrupted.ckpt", weights_only=True)["global_step"] == 3
    assert said.count("interrupted after step 3") == 1
    for process in (first, second):
        same(process["resumed"]["weights"], first["whole"]["weights"])
    same(load_weights(folder / "whole" / "weights.safetensors")[0], load_weights(folder / "resumed" / "weights.safetensors")[0])
    assert "note: the run had" not in said


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids, within_s=20):
    """Processes take a moment to be gone after the one that they end with."""
    until = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the second process in /proc")
def test_train_py_starts_and_stops_its_second_process(tmp_path):
    """The command as a user types it; SIGTERM goes to the process that was started, as `kill` would send it."""
    words = [*training_pair.SETTINGS, "trainer.devices=2", "trainer.strategy=ddp", "training.n_steps=100000", "training.validate_every=2"]
    command = [sys.executable, str(ROOT / "train.py"), *words, "data.n_validation_volumes=1", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.2)
        others = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.count("interrupted after step") == said.count("weights for 100000 steps") == 1
    assert len(others) >= 1
    assert all_end(others)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".hydra", "checkpoints", "tensorboard", "train.log"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert (tmp_path / "run" / "checkpoints" / "interrupted.ckpt").is_file()
    assert "Traceback" not in out + said


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_process_ends_with_the_one_that_started_it():
    child = "import time; from qsmdl.interrupt import end_with_parent; end_with_parent(); print('ready', flush=True); time.sleep(100)"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment(), stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    assert alive(pid)
    process.kill()
    process.wait()
    ended = all_end([pid])
    process.stdout.close()
    assert ended


def test_followers_leave_no_files_of_hydra(monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    assert follower_words(["seed=1"]) == []
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert follower_words(["seed=1"]) == ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    launched = ["hydra.run.dir=x", "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert follower_words(launched) == ["hydra/job_logging=stdout"]
    assert started_by_first_process(launched)
    assert not started_by_first_process(launched[:1])


@pytest.mark.parametrize("strategy", ["ddp_spawn", "fsdp", 2])
def test_strategies_that_would_lose_the_record_are_refused(strategy):
    check_strategy({"strategy": "ddp"})
    with pytest.raises(InputError, match=rf"trainer\.strategy is '?{strategy}'?; it must be one of auto, ddp"):
        check_strategy({"strategy": strategy})


def test_another_number_of_processes_is_told(capsys):
    callback = SameStream(n_workers=1)
    callback.load_state_dict({"n_processes": 1, "n_workers": 1})
    assert capsys.readouterr().err == ""
    callback.load_state_dict(json.loads('{"n_processes": 2, "n_workers": 4}'))
    assert "the run had 2 x 4 processes x loader workers, now 1 x 1" in capsys.readouterr().err


@pytest.mark.parametrize(("n_batches", "expected"), [(0, 0), (1, 6), (8, 6), (9, 12)])
def test_volumes_of_all_processes_are_counted(n_batches, expected):
    assert n_volumes_drawn(n_batches, n_lanes=2, batches_per_volume=4, world_size=3) == expected
