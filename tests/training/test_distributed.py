"""Two processes do what one does. Where one of them dies the job stops, says so, and goes on from its checkpoint."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import several
import torch

from diffnotes.training import commands as cli
from diffnotes.training import distributed
from diffnotes.training.checkpoint import list_checkpoints
from diffnotes.training.loop import fit

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="starts and kills processes as Linux does"),
    pytest.mark.allow_hosts(["127.0.0.1"]),  # one looks for a free port
    pytest.mark.usefixtures("one_thread"),  # as each of the two has: then sums have one order
]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Stop(Exception):
    """Raised in a callback, to leave a run in the middle."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, and the folder where they worked; one run began with one process."""
    folder = tmp_path_factory.mktemp("several")

    def leave(trainer):
        if trainer.done == 5:  # after the checkpoint of step 4
            raise Stop

    with pytest.raises(Stop):
        fit(
            several.SCHEDULE,
            several.network(),
            several.data(),
            several.CONFIG,
            folder=folder / "one first",
            callbacks=[leave],
        )
    command = [*TORCHRUN, several.__file__, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""  # nothing gets between the lines of a command's output
    assert "Warning" not in run.stderr
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)], folder


def test_alone_there_is_one_process():
    assert (distributed.rank(), distributed.size()) == (0, 1)
    x = torch.ones(3)
    distributed.average_(x)
    distributed.barrier()
    distributed.agree("anything", 5)
    assert x.tolist() == [1, 1, 1]


def test_there_were_two(found):
    assert [(f["rank"], f["size"]) for f in found[0]] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", several.GRADIENTS)
def test_gradients_are_those_of_one_process(name, found):
    """The same 8 gradients, summed in another order: a few roundings, of 2^-53 or 2^-24, relative to the whole."""
    alone = several.gradient(**several.GRADIENTS[name])
    bound = 1e-6 if name == "float32" else 1e-14
    for process in found[0]:
        together = process[f"gradient, {name}"]
        assert float((together - alone)[:-1].norm() / alone[:-1].norm()) < bound
        assert float(together[-1]) == pytest.approx(float(alone[-1]), rel=1e-6)  # the loss is kept in float32
    assert torch.equal(found[0][0][f"gradient, {name}"], found[0][1][f"gradient, {name}"])


def test_samples_and_likelihoods_are_those_of_one_process_to_the_last_bit(found):
    alone = several.samples()
    assert len(alone.flatten(1).unique(dim=0)) == 23  # no batch is another one again
    for process in found[0]:
        assert torch.equal(process["samples"], alone)
        assert process["likelihood"] == several.likelihood()


def test_the_run_is_that_of_one_process(found):
    """In float64 rounding stays far below 1e-10 over ten steps, and any slip in the draws is of order 1e-3."""
    alone = fit(several.SCHEDULE, several.network(), several.data(), several.CONFIG).model.state_dict()
    for process in found[0]:
        for weights in (process["weights"], process["resumed"]):
            for name, value in alone.items():
                torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-10)


def test_one_process_goes_on_where_two_stopped(found, tmp_path):
    (tmp_path / "run").mkdir()
    older = list_checkpoints(found[1] / "two")[0]
    assert older.name == "step-00000008"
    older.rename(tmp_path / "run" / older.name)
    resumed = fit(several.SCHEDULE, several.network(), several.data(), several.CONFIG, folder=tmp_path / "run")
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, found[0][0]["weights"][name], rtol=0, atol=1e-10)


def test_dropout_differs_between_processes_and_not_between_runs(found):
    (first, second), (other, _) = (process["dropout"] for process in found[0])
    assert torch.equal(first, second)
    assert torch.equal(first, other)
    (seed, again), (elsewhere, _) = (process["seeds"] for process in found[0])
    assert seed == again != elsewhere


def test_what_does_not_fit_is_refused_by_all(found):
    for process in found[0]:
        assert process["bad batch"] == ("batch must be divisible into 1 part(s) for each of 2 processes, got 9")
        assert "the loss must be finite, got nan at step 1 of 10" in process["bad loss"]
        assert process["at odds"] == "the rank must be the same in all 2 processes, got 0 and 1"


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "a free port"])
def test_processes_that_cannot_meet_say_so(missing, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        if missing != "MASTER_ADDR":
            monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        with pytest.raises(ConnectionError, match=r"do not find each other: .*(MASTER_ADDR|in use)"):
            with distributed.job("cpu"):
                pass


# ---- a process that dies --------------------------------------------------------------------------------------


@pytest.fixture
def start():
    """A function that starts a process, which ends with the test at the latest."""
    jobs = []

    def go(*words, **environment):
        jobs.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | environment))
        return jobs[-1]

    yield go
    for job in jobs:
        job.terminate()
        job.communicate()


def until(true, seconds=180):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.05)


def command(folder):
    files = ["--folder", str(folder / "run"), "--out", str(folder / "weights.safetensors")]
    return ["train", "--preset", "tiny", "--device", "cpu", *files]


def kill_rank_one(folder):
    """Once there is a checkpoint."""
    until(lambda: list_checkpoints(folder / "run"))
    os.kill(int((folder / "1").read_text()), signal.SIGKILL)


def test_a_killed_worker_stops_the_job_which_goes_on_alone(start, tmp_path, capsys, monkeypatch):
    job = start(*TORCHRUN, several.__file__, "cli", *command(tmp_path), PIDS=str(tmp_path))
    kill_rank_one(tmp_path)
    _, said = job.communicate(timeout=180)
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in said
    assert not (tmp_path / "weights.safetensors").exists()
    done = int(list_checkpoints(tmp_path / "run")[-1].name[5:])
    assert 10 <= done < 120
    monkeypatch.setitem(cli.PRESETS, "tiny", several.preset)
    cli.main(command(tmp_path))  # not under torchrun
    assert "weights.safetensors: loss" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 120]


def test_the_process_that_is_left_says_so_in_one_line(start, tmp_path):
    """Without torchrun, which ends the others at once: as under a cluster's own launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PIDS": str(tmp_path)}
    words = [sys.executable, several.__file__, "cli", *command(tmp_path)]
    left, _ = (start(*words, **address, RANK=rank, LOCAL_RANK=rank) for rank in "01")
    kill_rank_one(tmp_path)
    said = left.communicate(timeout=180)[1]
    assert left.returncode == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("diffnotes (rank 0): another process of this job has stopped")
