"""The store: what is written is read, nothing half-written is seen, and what is wrong is said in one line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.store import FORMAT, Store, case_key
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.geometry import Box, triple
from VoCoCore.runs import lock
from VoCoCore.runs.files import read_json, write_json
from VoCoCore.runs.space import default_store
from VoCoCore.settings import PrepareSettings

KEY = "ab" * 32
HEADER: dict[str, Any] = {"affine": np.diag([1.5, 1.5, 3.0, 1.0]).tolist(), "plan": {"notes": []}}
POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits, permissions or signals")


def noise(shape: tuple[int, ...] = (1, 60, 50, 40), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


@pytest.fixture
def filled(store: Store) -> Store:
    store.write(KEY, noise(), HEADER)
    return store


def shard_of(store: Store) -> Path:
    """The one file that holds a store's only case's voxels."""
    files = [path for path in (store.root / "cases").rglob("c/**/*") if path.is_file()]
    assert len(files) == 1
    return files[0]


# --- reading what was written ---


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_box_of_any_shape_is_read_as_written(data: st.DataObject) -> None:
    sizes = st.sampled_from([1, 2, 47, 48, 49, 97])
    shape = (data.draw(st.integers(1, 3)), *data.draw(st.tuples(sizes, sizes, sizes)))
    array = noise(shape, seed=sum(shape))
    start = [data.draw(st.integers(0, n - 1)) for n in shape[1:]]
    size = [data.draw(st.integers(1, n - a)) for n, a in zip(shape[1:], start, strict=True)]
    x, y, z = (slice(a, a + n) for a, n in zip(start, size, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder).create()
        store.write(KEY, array, HEADER)
        volume = store.open(KEY)
        assert volume.shape == shape
        np.testing.assert_array_equal(volume.read(), array)
        box = Box(triple(start, "start"), triple(size, "size"))
        np.testing.assert_array_equal(volume.read(box), array[:, x, y, z])
        np.testing.assert_array_equal(volume.array[:, x, y, z], array[:, x, y, z])  # as others read it


def test_whole_numbers_of_two_bytes_and_blocks_of_zeros_are_read(store: Store) -> None:
    array = np.zeros((2, 100, 50, 100), np.int16)
    array[0, 60:, :, 40:], array[1, :20] = -32768, 32767
    store.write(KEY, array, HEADER)
    np.testing.assert_array_equal(store.open(KEY).read(), array)
    box = Box((30, 10, 90), (50, 30, 10))
    np.testing.assert_array_equal(store.open(KEY).read(box), array[:, 30:80, 10:40, 90:])


def test_the_header_comes_back(filled: Store) -> None:
    volume = filled.open(KEY)
    np.testing.assert_array_equal(volume.affine, HEADER["affine"])
    assert volume.header["plan"] == {"notes": []}
    assert filled.keys() == [KEY]
    assert filled.has(KEY)
    assert filled.size(KEY) > noise().size // 2


def test_a_volume_of_zeros_is_read(store: Store) -> None:
    store.write(KEY, np.zeros((1, 50, 50, 50), np.uint8), HEADER)
    assert not store.open(KEY).read().any()


def test_a_crop_reads_only_the_blocks_that_it_touches(store: Store) -> None:
    store.write(KEY, noise((1, 96, 96, 96)), HEADER)
    shard = shard_of(store)
    content = bytearray(shard.read_bytes())
    content[: len(content) // 5] = bytes(len(content) // 5)
    shard.write_bytes(content)
    volume = store.open(KEY)
    np.testing.assert_array_equal(
        volume.read(Box((48, 48, 0), (48, 48, 96))), noise((1, 96, 96, 96))[:, 48:, 48:]
    )
    with pytest.raises(DataError, match="damaged"):
        volume.read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize(
    "box", [Box((0.5, 0, 0), (4, 4, 4)), Box((-1, 0, 0), (4, 4, 4)), Box((58, 0, 0), (4, 4, 4))]
)
def test_a_box_must_be_whole_voxels_inside_the_volume(filled: Store, box: Box) -> None:
    with pytest.raises(ValueError, match="inside a volume"):
        filled.open(KEY).read(box)


def test_others_can_read_it_as_zarr(filled: Store) -> None:
    array = zarr.open_array(next(filled.root.rglob("volume.zarr")), mode="r")
    assert array.metadata.zarr_format == 3
    assert array.shards is not None
    np.testing.assert_array_equal(array[...], noise())


def test_a_key_that_is_there_is_kept(filled: Store) -> None:
    filled.write(KEY, noise(seed=1), HEADER)
    np.testing.assert_array_equal(filled.open(KEY).read(), noise())
    assert not list((filled.root / "partial").iterdir())


def test_what_is_half_deleted_is_written_anew(filled: Store) -> None:
    next((filled.root / "cases").rglob("header.json")).unlink()
    assert filled.keys() == []
    filled.write(KEY, noise(seed=1), HEADER)
    np.testing.assert_array_equal(Store(filled.root).open(KEY).read(), noise(seed=1))


def test_a_case_can_be_removed(filled: Store) -> None:
    filled.open(KEY)
    filled.remove(KEY)
    assert filled.keys() == []
    with pytest.raises(DataError, match="has no case abababababab"):
        filled.open(KEY)


# --- other processes ---


def read_sum(store: Store, key: str) -> int:
    return int(store.open(key).read().sum())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_loader_workers_read_what_the_parent_reads(filled: Store, method: str) -> None:
    here = read_sum(
        filled, KEY
    )  # the parent's zarr has threads by now; a forked child must not wait for them
    process_pool = multiprocessing.get_context(method).Pool(1)
    with process_pool as pool:
        assert pool.apply_async(read_sum, (filled, KEY)).get(timeout=60) == here


def test_a_store_travels_to_other_processes_without_its_open_files(filled: Store) -> None:
    filled.open(KEY)
    assert len(pickle.dumps(filled)) < 1000


HOLD = """
import sys, time
from VoCoCore.data.store import Store
with Store(sys.argv[1]).lock(sys.argv[2]):
    print(1, flush=True)
    time.sleep(60)
"""


def take_lock(store: Store) -> None:
    with store.lock(KEY):
        pass


def test_two_jobs_do_not_prepare_the_same_case_at_once(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, str(store.root), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline().strip() == b"1"
        waiting = threading.Thread(target=take_lock, args=(store,))
        waiting.start()
        waiting.join(timeout=0.4)
        assert waiting.is_alive(), "the other job has not finished"
        partial = store.root / "partial" / f"{KEY}.half"
        partial.mkdir()
        store.clean()
        assert partial.exists(), "somebody is at work there"
        holder.kill()
        holder.wait()
        waiting.join(timeout=30)
        assert not waiting.is_alive()
        store.clean()
        assert not partial.exists(), "its writer is dead"


def test_without_locks_a_case_in_work_stays_for_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_try", lambda handle, shared=False: None)
    partial = store.root / "partial" / f"{KEY}.{'0' * 32}"
    partial.mkdir()
    store.clean()
    assert partial.exists(), "another job may be at work there"
    os.utime(partial, (1, 1))
    store.clean()
    assert not partial.exists()


# --- faults ---


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.nii").touch()
    with pytest.raises(EnvironmentFault, match="holds other files") as caught:
        Store(tmp_path).create()
    assert "data.store" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["image.nii"]


def test_two_jobs_may_make_a_store_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.iterdir

    def after_another(folder: Path) -> Any:
        monkeypatch.setattr(Path, "iterdir", look)
        Store(tmp_path / "store").create()
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", after_another)
    assert Store(tmp_path / "store").create().keys() == []


def test_a_store_of_another_version_is_refused(filled: Store) -> None:
    mark = read_json(filled.root / "store.json")
    write_json(filled.root / "store.json", {**mark, "format": FORMAT + 1})
    with pytest.raises(EnvironmentFault, match=f"another version of VoCoCore \\(format {FORMAT + 1}"):
        Store(filled.root).create()


def test_a_folder_that_is_no_store_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no store of prepared volumes"):
        Store(tmp_path / "nothing").check()


@pytest.mark.parametrize("damage", ["cut", "gone", "no header", "not json", "no array"])
def test_damage_is_an_error_never_zeros(filled: Store, damage: str) -> None:
    folder = next((filled.root / "cases").glob("*/*"))
    shard = shard_of(filled)
    if damage == "cut":
        os.truncate(shard, 1000)
    elif damage == "gone":
        shard.unlink()
    elif damage == "no array":
        (folder / "volume.zarr" / "zarr.json").write_text("{}")
    else:
        (folder / "header.json").write_text("[]" if damage == "no header" else "{")
    with pytest.raises(DataError, match="damaged") as caught:
        Store(filled.root).open(KEY)
    assert "prepare the cases again" in caught.value.hint


FULL = """
import resource, sys, numpy as np
from VoCoCore.data.store import Store
store = Store(sys.argv[1]).create()
noise = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 96), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try: store.write("ab" * 32, noise, {"affine": []})
except Exception as error: print(type(error).__name__, error)
"""


@POSIX_ONLY
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("EnvironmentFault")
    assert "the disk is full" in done.stdout
    store = Store(tmp_path)
    assert store.keys() == []
    assert not list((tmp_path / "partial").iterdir())


READ_ONLY = """
import os, sys, tempfile, numpy as np
from VoCoCore.data.store import Store
ones = np.ones((1, 2, 2, 2), np.uint8)
with tempfile.TemporaryDirectory() as folder:
    Store(folder).create().write("cd" * 32, ones, {})  # all imports happen while they may
if os.geteuid() == 0: os.seteuid(65534)  # root may write anywhere
for name in ("store", "new"):
    try: Store(os.path.join(sys.argv[1], name)).create().write("cd" * 32, ones, {})
    except Exception as error: print(type(error).__name__, error)
"""


@POSIX_ONLY
def test_a_read_only_folder_is_said_but_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Store(Path(folder) / "store").create().write(KEY, noise(), HEADER)
        folders = [Path(folder), *(path for path in Path(folder).rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, folder], capture_output=True, text=True, check=False
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 2, done.stderr
        assert all(line.startswith("EnvironmentFault") and "permission denied" in line for line in lines)
        np.testing.assert_array_equal(Store(Path(folder) / "store").create().open(KEY).read(), noise())
        for path in folders:
            path.chmod(0o755)


KILLED = """
import os, sys, threading, time, numpy as np
from VoCoCore.data import store as module
write = module.write_volume
def slow(path, array):
    write(path, array)
    print("half", flush=True)
    time.sleep(60)
module.write_volume = slow
store = module.Store(sys.argv[1]).create()
with store.lock("ab" * 32): store.write("ab" * 32, np.ones((1, 9, 9, 9), np.uint8), {"affine": []})
"""


@POSIX_ONLY
def test_what_a_killed_job_left_is_cleaned_and_the_next_goes_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as job:
        assert job.stdout and job.stdout.readline().strip() == b"half"
        job.send_signal(signal.SIGKILL)
        job.wait()
    store = Store(tmp_path).create()
    assert store.keys() == []
    assert len(list((tmp_path / "partial").iterdir())) == 1
    store.clean()
    assert not list((tmp_path / "partial").iterdir())
    with store.lock(KEY):
        store.write(KEY, noise(), HEADER)
    assert store.keys() == [KEY]


# --- keys ---


def test_every_setting_is_part_of_the_key() -> None:
    changes: dict[str, Any] = {
        "intensity": "mr",
        "window": (-160, 240),
        "percentiles": (1, 99),
        "by_body_part": True,
        "spacing": (1, 1, 1),
        "foreground": 0.2,
        "fit": "pad",
    }
    base = PrepareSettings()
    assert set(changes) == set(base.to_dict()), "a new setting needs a line here"
    keys = {
        case_key(["a"], base.with_values({name: value}), (8, 8, 8), None) for name, value in changes.items()
    }
    keys |= {case_key(["a"], base, (8, 8, 8), None), case_key(["b"], base, (8, 8, 8), None)}
    keys |= {case_key(["a"], base, (8, 8, 9), None), case_key(["a"], base, (8, 8, 8), "chest")}
    keys |= {case_key(["a", "b"], base, (8, 8, 8), None), case_key(["b", "a"], base, (8, 8, 8), None)}
    assert len(keys) == len(changes) + 6
    assert case_key(["a"], PrepareSettings(), (8, 8, 8), None) in keys


def test_the_default_store_lies_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "vococore" / "store"


def test_opening_is_quick_the_second_time(filled: Store) -> None:
    assert filled.open(KEY) is filled.open(KEY)
