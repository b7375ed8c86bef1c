"""Faults of a running job: memory, disk, workers, ranks, a folder or a terminal that goes.

Each through the command line as a user meets it: one line, the right exit code, and the last checkpoint whole.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from itertools import islice

import psutil
import pytest
import torch
from faults import check_line, meet
from nursery import ROOT
from safetensors.torch import load_file

from VoCoCore.cli import main
from VoCoCore.data.loading import ByNumber, Numbers, Samples, make_loader, worker_killed
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sampling import TRAIN
from VoCoCore.data.sources import index_source
from VoCoCore.data.store import Store
from VoCoCore.pretext.voco import VoCo
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.checkpoint import MODEL, STATE, checkpoints, newest

pytestmark = pytest.mark.usefixtures("own_config")
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits and signals")


class Job:
    """``voco pretrain`` in a process of its own, with limits of the system where wanted."""

    def __init__(self, words, limits=(), soft_limits=(), program=("-m", "VoCoCore")):
        def restrict():
            import resource

            for name, value in [*limits, *soft_limits]:
                number = getattr(resource, name)
                hard = value if (name, value) in limits else resource.getrlimit(number)[1]
                resource.setrlimit(number, (value, hard))

        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *program, "pretrain", *map(str, words)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=restrict if limits or soft_limits else None,
        )

    def must_end(self, kind, code, *says):
        _, said = self.process.communicate(timeout=180)
        return check_line(kind, self.process.returncode, code, said, [str(word) for word in says])


@pytest.fixture
def words(small_cohort, tmp_path):
    """Command line of a small job in tmp_path/run, with changes of settings."""

    def make(recipe="paper", **changes):
        settings = small_cohort.settings(recipe, **changes).to_dict()
        RunDirectory(tmp_path).write_json("settings-wanted.json", settings)
        places = ["--data", small_cohort.source, "--store", small_cohort.store]
        return ["--config", tmp_path / "settings-wanted.json", *places, "--run-folder", tmp_path / "run"]

    return make


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def wait_until(condition, seconds=120.0):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


def at_step(run, step):
    wait_until(lambda: (status := run.read_status()) is not None and status.step >= step)


# Memory

# 1.5 GB beyond what the libraries take, which differs between systems.
LITTLE_ROOM = (
    "import psutil, resource, sys, VoCoCore.evaluation.report, VoCoCore.training.pretrain; "
    "most = psutil.Process().memory_info().vms + (3 << 29); resource.setrlimit(resource.RLIMIT_AS, (most, most)); "
    "from VoCoCore.cli import main; sys.exit(main(sys.argv[1:]))"
)


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit a process's memory")
def test_out_of_memory_names_settings_that_then_fit(words, run):
    """The suggestion is carried out, under the same limit."""
    job = [*words(optim__steps=1, optim__warmup=0, model__feature_size=24, optim__batch=16), "--workers", "0"]
    line = Job(job, program=("-c", LITTLE_ROOM)).must_end(
        "out of memory in a step", 4, "out of memory on the CPU", "--model.checkpointing"
    )
    assert run.state() == "failed"
    suggested = re.search(r"this should fit: (.*) \(about", line)[1].split()
    shutil.rmtree(run.path)
    assert Job([*job, *suggested], program=("-c", LITTLE_ROOM)).process.wait(180) == 0


# Disk


@posix
def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(words, run, capsys):
    """A limit on the size of files: the first checkpoint fits, the second is let grow beyond it by the limit."""
    job = list(map(str, words(optim__steps=2, run__checkpoint_every=1)))
    assert main(["pretrain", *job]) == 0
    size = (checkpoints(run.checkpoints)[0] / STATE).stat().st_size
    shutil.rmtree(run.path)
    limit = [("RLIMIT_FSIZE", size - 20_000)]
    Job(job, limit).must_end(
        "disk full at a checkpoint", 4, "the disk is full", "step-00000001", "go on with --resume"
    )
    assert run.state() == "failed" and not list(run.checkpoints.iterdir())
    assert main(["pretrain", *job, "--resume"]) == 0


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux", reason="mounts"
)
def test_a_really_full_disk_at_a_checkpoint(words, tmp_path, run):
    """A small tmpfs that fills up while the job runs; freed, the job goes on to the same weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        changes = {"optim__steps": 20, "run__checkpoint_every": 2, "run__validate_every": 20}
        job = words(**changes)
        job[job.index(tmp_path / "run")] = disk / "run"
        there = RunDirectory(disk / "run")
        process = Job(job)
        at_step(there, 4)
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as stream:
            try:
                while stream.write(b"\0" * 65536):
                    pass
            except OSError:
                pass
        process.must_end("disk full while training", 4, "the disk is full", "--resume")
        whole, damaged = newest(there.checkpoints)
        assert whole and not damaged and there.state() != "finished"
        filler.unlink()
        assert Job([*job, "--resume"]).process.wait(120) == 0
        assert Job(words(**changes)).process.wait(120) == 0
        ours, theirs = (load_file(newest(r.checkpoints)[0] / MODEL) for r in (there, run))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_too_small_for_the_checkpoints_is_said_before_the_first_step(words, run, monkeypatch, capsys):
    full = shutil.disk_usage(run.path.parent)._replace(free=100_000)
    monkeypatch.setattr("VoCoCore.training.disk.shutil.disk_usage", lambda path: full)
    meet(
        capsys,
        "disk too small for checkpoints",
        4,
        ["pretrain", *words()],
        ["the checkpoints need", run.path],
    )
    assert not checkpoints(run.checkpoints)


# While it runs


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_was_asked_for(words, capsys):
    meet(
        capsys,
        "no GPU though asked for",
        4,
        ["pretrain", *words(), "--device", "cuda"],
        ["CUDA", "--device cpu"],
    )


@posix
def test_a_killed_loader_worker_ends_the_job_with_a_word(words, run):
    job = Job(words(optim__steps=400, run__checkpoint_every=5, run__validate_every=400, data__workers=2))
    at_step(run, 6)
    for worker in psutil.Process(job.process.pid).children():
        worker.send_signal(signal.SIGKILL)
    job.must_end("a loader worker is killed", 4, "a process that reads volumes was killed", "data.workers")
    assert run.state() == "failed" and newest(run.checkpoints)[0]


@posix
def test_workers_leave_the_signals_of_a_group_to_the_job_until_it_is_over(small_cohort):
    """Ctrl-C and a cluster's signals reach workers too; they go on reading, and end when nothing more is wanted."""
    settings = small_cohort.settings()
    prepared = prepare_index(
        index_source(settings.data.source), settings, Store(small_cohort.store), workers=0
    )
    views = partial(VoCo.views, settings, stream=TRAIN)
    samples = Samples(small_cohort.store, prepared.keys, views)
    before = set(multiprocessing.active_children())
    batches = make_loader(samples, Numbers(0, 40, 1), workers=1, pin=False)
    first = next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid, number)
    rest = list(islice(batches, 38))
    assert len(rest) == 38 and first["volumes"].shape == rest[-1]["volumes"].shape and worker.is_alive()
    batches.close()
    worker.join(15)
    assert not worker.is_alive()


class TooMuch(ByNumber):
    """Samples of 400 kB from a worker that can share no more than 100 kB: as where /dev/shm is full."""

    def sample(self, number):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return {"volumes": torch.zeros(100_000)}


class Broken(ByNumber):
    def sample(self, number):
        raise RuntimeError("a defect of ours")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shared memory is no file")
@pytest.mark.parametrize("batch", [1, 2])
def test_shared_memory_that_is_full_ends_a_job_with_a_word(batch):
    """Containers have 64 MB of it. With one case a batch the job used to wait for ever."""

    def waits(number, frame):
        raise AssertionError("it waits for a batch that never comes")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(30)
    try:
        with pytest.raises(RuntimeError) as caught:
            next(make_loader(TooMuch(), Numbers(0, 4, batch), workers=1, pin=False))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    fault = worker_killed(caught.value)
    assert "/dev/shm" in fault.message and "--shm-size" in fault.hint


def test_a_defect_in_a_worker_is_not_told_as_a_want_of_memory():
    with pytest.raises(RuntimeError, match="a defect of ours") as caught:
        next(make_loader(Broken(), Numbers(0, 4, 1), workers=1, pin=False))
    assert worker_killed(caught.value) is None


@posix
def test_few_open_files_are_made_more_where_the_system_allows_it(words, run):
    """macOS starts with 256, and each worker holds dozens."""
    job = words(optim__steps=3, data__workers=2)
    assert Job(job, soft_limits=[("RLIMIT_NOFILE", 40)]).process.wait(120) == 0


def test_a_prepared_volume_that_is_damaged_meanwhile_is_named(words, run, small_cohort, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(small_cohort.store, store)
    job = words(optim__steps=2, data__workers=1)
    job[job.index("--store") + 1] = store
    job = ["pretrain", *job]
    for volume in store.rglob("volume.zarr"):
        data = next(path for path in (volume / "c").rglob("*") if path.is_file())
        data.write_bytes(bytes(data.stat().st_size))
    line = meet(capsys, "a prepared volume is damaged", 3, job, ["is damaged", store])
    assert "worker process" not in line


@posix
def test_a_run_folder_that_is_deleted_ends_the_job_with_a_word(words, run):
    job = Job(words(optim__steps=4000, run__checkpoint_every=4000, run__validate_every=4000))
    at_step(run, 3)
    shutil.rmtree(run.path)
    job.must_end("the run's folder is deleted", 4, run.path)


@posix
def test_a_terminal_that_goes_does_not_end_the_job(words, run):
    """Its output is a pipe that nobody reads any more."""
    job = Job(words(optim__steps=12))
    job.process.stdout.close()
    assert job.process.wait(120) == 0
    assert run.state() == "finished"


# Ranks


def two_ranks(job):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    return Job(job, program=(*launcher, "-m", "VoCoCore"))


def ranks_of(job):
    """Processes of the two ranks, by rank."""
    found = {}
    for child in psutil.Process(job.process.pid).children():
        found[child.environ().get("RANK")] = child
    return found


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "first"}, "RANK=first"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "cannot find each other"),
    ],
    ids=["no number", "too high", "alone"],
)
def test_odd_variables_of_ranks(variables, says, words, monkeypatch, capsys, request):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    kind = f"variables of ranks ({request.node.callspec.id})"
    meet(capsys, kind, 4, ["pretrain", *words()], [says, "torchrun"])


gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name != "posix", reason="no gloo ranks here"
)


@gloo
def test_when_one_of_two_ranks_dies_the_other_says_so(words, run):
    job = two_ranks(words("v1", optim__steps=4000, run__checkpoint_every=5, run__validate_every=4000))
    at_step(run, 6)
    ranks_of(job)["1"].kill()
    _, said = job.process.communicate(timeout=120)
    assert job.process.returncode != 0
    line = next(line for line in said.splitlines() if line.startswith("voco: "))
    check_line("one of two ranks dies", 4, 4, line, ["another of the 2 ranks has ended", "--resume"])
    assert run.state() == "failed" and newest(run.checkpoints)[0]


@gloo
@pytest.mark.parametrize("told", ["0", "1"])
def test_two_ranks_stop_together_whichever_is_asked(told, words, run):
    job = two_ranks(words("v1", optim__steps=4000, run__checkpoint_every=4000, run__validate_every=4000))
    at_step(run, 3)
    ranks_of(job)[told].send_signal(signal.SIGTERM)
    job.process.communicate(timeout=120)
    assert run.state() == "stopped" and newest(run.checkpoints)[0]
