"""Preparing: the whole pipeline against scipy; an index in all its ways to go wrong or to be interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from VoCoCore.data import prepare_case
from VoCoCore.data.apply import LARGEST_ERROR, apply_plan
from VoCoCore.data.cases import Case, Index, Source, save_index
from VoCoCore.data.images import content_hash, read_case, write_image
from VoCoCore.data.plan import plan_case
from VoCoCore.data.prepare import NAMED_ERRORS, PreparedSet, prepare_index
from VoCoCore.data.sources import index_source
from VoCoCore.data.store import Store
from VoCoCore.errors import DataError, EnvironmentFault, StopRequested
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PrepareSettings

AFFINE = np.diag([-0.9, 1.1, 2.0, 1.0])
SETTINGS = resolve_pretrain({"preset": "tiny", "model.encoder": "unet"})


def ct(shape: tuple[int, int, int] = (30, 26, 20), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    image[4:-3, 3:-5, 2:-2] = rng.integers(-150, 240, (shape[0] - 7, shape[1] - 8, shape[2] - 4))
    return image


@dataclass(frozen=True)
class Folder:
    """Image files and the cases that show them."""

    path: Path

    def case(self, name: str, seed: int = 0, **facts: Any) -> Case:
        path = self.path / f"{name}.nii.gz"
        if not path.exists():
            write_image(path, ct(seed=seed), AFFINE)
        return Case(name, (Source(str(path)),), patient=name, **facts)

    def index(self, count: int) -> Index:
        return Index(tuple(self.case(f"case{n}", seed=n) for n in range(count)))

    def broken(self, name: str) -> Case:
        path = self.path / f"{name}.nii.gz"
        path.write_bytes(b"this is no image")
        return Case(name, (Source(str(path)),))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "images").mkdir()
    return Folder(tmp_path / "images")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def prepare(index: Index, store: Store, settings: Any = SETTINGS, **options: Any) -> PreparedSet:
    return prepare_index(index, settings, store, **{"workers": 0, **options})


# --- the whole of what happens to the voxels ---


def trilinear(volume: np.ndarray, points: list[np.ndarray]) -> np.ndarray:
    grid = np.stack(np.meshgrid(*points, indexing="ij"))
    return map_coordinates(volume.astype(np.float64), grid, order=1, mode="nearest")


def resized(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return trilinear(volume, [np.linspace(0, n - 1, m) for n, m in zip(volume.shape, shape, strict=True)])


def windowed(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((volume - low) / (high - low), 0, 1)


def boxed(volume: np.ndarray, threshold: float) -> np.ndarray:
    above = np.argwhere(volume > threshold)
    return volume[tuple(slice(a, b) for a, b in zip(above.min(0), above.max(0) + 1, strict=True))]


def padded(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    extra = np.maximum(np.subtract(shape, volume.shape), 0)
    return np.pad(volume, [(n // 2, n - n // 2) for n in extra])


def test_v1_as_published_by_slow_means() -> None:
    plan = plan_case(ct()[None], AFFINE, PrepareSettings(window=(-175, 250)), (24, 20, 10))
    expected = resized(boxed(windowed(ct()[::-1].astype(float), -175, 250), 0.3), (24, 20, 10))
    np.testing.assert_allclose(apply_plan(ct()[None], plan, np.float32)[0], expected, atol=2e-5)


@pytest.mark.parametrize("part", ["abdomen", "headneck"])
def test_v2_as_published_by_slow_means(part: str) -> None:
    settings = PrepareSettings(by_body_part=True, foreground=0.0, fit="pad")
    plan = plan_case(ct()[None], AFFINE, settings, (96, 80, 64), part)
    spaced = trilinear(
        ct()[::-1], [np.arange(18) * 1.5 / 0.9, np.arange(19) * 1.5 / 1.1, np.arange(26) * 0.75]
    )
    expected = padded(boxed(windowed(spaced, -175, 250), 0.0), (64, 64, 64))
    expected = resized(expected, (96, 80, 64)) if part == "headneck" else padded(expected, (96, 80, 64))
    np.testing.assert_allclose(apply_plan(ct()[None], plan, np.float32)[0], expected, atol=5e-5)


def test_the_error_of_what_is_stored_is_as_stated() -> None:
    plan = plan_case(ct()[None], AFFINE, PrepareSettings(), (24, 20, 10))
    exact, stored = apply_plan(ct()[None], plan, np.float32), apply_plan(ct()[None], plan)
    assert stored.dtype == np.uint8
    assert stored.flags.c_contiguous
    assert np.abs(stored / 255 - exact).max() <= LARGEST_ERROR + 1e-6
    assert pytest.approx(1 / 510) == LARGEST_ERROR


def test_the_image_itself_is_not_changed() -> None:
    image = ct().astype(np.float32)[None]
    apply_plan(image, plan_case(image, AFFINE, PrepareSettings(), (24, 20, 10)))
    np.testing.assert_array_equal(image[0], ct())


# --- an index ---


def test_every_case_is_prepared_and_described(folder: Folder, store: Store) -> None:
    index = folder.index(3)
    ready = prepare(index, store)
    assert ready.cases == index.cases
    assert len(set(ready.keys)) == len(set(ready.content)) == 3
    volume = store.open(ready.keys[1])
    assert volume.shape == (1, *(SETTINGS.crops.volume_size or ()))
    image = np.asfortranarray(ct(seed=1))[
        None
    ]  # as NIfTI files are: the order of the axes decides on rounding
    plan = plan_case(image, AFFINE, SETTINGS.prepare, SETTINGS.crops.volume_size or ())
    np.testing.assert_array_equal(volume.read(), apply_plan(image, plan))
    np.testing.assert_allclose(volume.affine, plan.affine)
    assert volume.header["content"] == [ready.content[1]]
    assert volume.header["quantisation"]["largest_error"] == LARGEST_ERROR
    assert "as air does" in " ".join(volume.header["plan"]["notes"])


def test_neither_path_nor_name_is_kept_in_the_store(folder: Folder, store: Store) -> None:
    prepare(Index((folder.case("MUELLER_HANS"),)), store)
    texts = [path.read_text() for path in store.root.rglob("*") if path.suffix in (".json", ".txt")]
    assert len(texts) == 4
    for text in texts:
        assert "MUELLER" not in text
        assert str(folder.path) not in text


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this was done before")

    for name in names:
        monkeypatch.setattr(f"VoCoCore.data.prepare_case.{name}", refuse)


def test_a_second_call_reads_no_image(folder: Folder, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(folder.index(3), store)
    forbid(monkeypatch, "read_case", "content_hash")
    assert prepare(folder.index(3), Store(store.root)).keys == first.keys


def test_a_changed_file_or_setting_is_prepared_anew(folder: Folder, store: Store) -> None:
    first = prepare(folder.index(1), store)
    other = prepare(folder.index(1), store, SETTINGS.with_values({"prepare.foreground": 0.4}))
    write_image(folder.path / "case0.nii.gz", ct(seed=7), AFFINE)
    changed = prepare(folder.index(1), store)
    assert len({first.keys, other.keys, changed.keys}) == 3
    assert len(store.keys()) == 3


def test_a_file_of_the_same_size_but_another_time_is_read_again(folder: Folder, store: Store) -> None:
    path = folder.path / "plain.nii"
    keys = set()
    for seed in (1, 2):
        write_image(path, ct(seed=seed), AFFINE)
        os.utime(path, ns=(seed * 10**9, seed * 10**9))
        keys.add(prepare(Index((Case("plain", (Source(str(path)),)),)), store).keys)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "NDims = 3\nDimSize = 9 9 9\nElementType = MET_UCHAR\nElementDataFile = image.raw\n"),
        (
            "a.nrrd",
            "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 9 9 9\nencoding: raw\ndata file: image.raw\n",
        ),
    ],
)
def test_voxels_beside_a_header_are_looked_at_each_time(
    folder: Folder, store: Store, name: str, header: str
) -> None:
    (folder.path / name).write_text(header)
    keys = set()
    for seed in (1, 2):
        noise = np.random.default_rng(seed).integers(0, 255, 729, dtype=np.uint8)
        (folder.path / "image.raw").write_bytes(noise.tobytes())
        keys.add(prepare(Index((Case("a", (Source(str(folder.path / name)),)),)), store).keys)
    assert len(keys) == 2


def test_a_store_that_cannot_be_written_serves_what_it_has(
    folder: Folder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare(folder.index(2), store)
    (store.root / "hashes.txt").unlink()
    (store.root / "hashes.txt").mkdir()  # nothing can be added to that
    monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("nothing is left to write"))
    assert prepare(folder.index(2), store).keys == ready.keys


def test_cases_that_show_the_same_images_are_read_and_prepared_once(
    folder: Folder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = folder.case("one")
    cases = tuple(Case(f"copy{n}", case.images, patient=str(n)) for n in range(100_000))
    shown: list[tuple[int, int, str]] = []
    read: list[Source] = []
    monkeypatch.setattr(
        prepare_case, "content_hash", lambda source: read.append(source) or content_hash(source)
    )
    ready = prepare(Index(cases), store, progress=lambda *report: shown.append(report))
    assert len(ready.keys) == 100_000
    assert len(store.keys()) == len(read) == 1
    assert shown[-1][:2] == (100_000, 100_000)


def test_the_body_part_of_the_case_or_of_the_settings_chooses_the_rule(folder: Folder, store: Store) -> None:
    settings = resolve_pretrain({"recipe": "v2", "preset": "tiny", "model.encoder": "unet"})
    cases = (folder.case("a", body_part="chest"), folder.case("b", body_part="abdomen"), folder.case("c"))
    ready = prepare(Index(cases), store, settings.with_values({"data.body_part": "headneck"}))
    parts = [store.header(key)["plan"]["body_part"] for key in ready.keys]
    assert parts == ["chest", "abdomen", "headneck"]


def test_channels_and_volumes_of_4d_files_are_cases_of_their_own(folder: Folder, store: Store) -> None:
    one, two = folder.case("t1", seed=1).images[0], folder.case("t2", seed=2).images[0]
    ready = prepare(Index((Case("both", (one, two)), Case("turned", (two, one)))), store)
    both, turned = (store.open(key).read() for key in ready.keys)
    assert both.shape[0] == 2
    np.testing.assert_array_equal(both, turned[::-1])
    assert ready.content[0] == "+".join(reversed(ready.content[1].split("+")))


def test_several_processes_give_the_same_as_one(folder: Folder, store: Store, tmp_path: Path) -> None:
    index = Index((*folder.index(8).cases, folder.broken("bad")))
    alone = prepare(index, store, skip_bad=True)
    other = Store(tmp_path / "other")
    together = prepare(index, other, workers=2, skip_bad=True)
    assert together == alone
    for key in alone.keys:
        np.testing.assert_array_equal(store.open(key).read(), other.open(key).read())


def test_progress_counts_up_and_says_how_long_it_takes(folder: Folder, store: Store) -> None:
    shown: list[tuple[int, int, str]] = []
    prepare(folder.index(2), store)
    prepare(folder.index(4), store, progress=lambda *report: shown.append(report))
    assert [done for done, _, _ in shown] == [2, 3, 4]
    assert {total for _, total, _ in shown} == {4}
    assert shown[0][2] == "2 of 4 cases prepared already"
    assert shown[1][2].startswith("about")


# --- what goes wrong ---


def test_a_bad_case_is_named_with_its_file(folder: Folder, store: Store) -> None:
    index = Index((folder.case("good"), folder.broken("bad")))
    with pytest.raises(DataError) as caught:
        prepare(index, store)
    assert "bad" in str(caught.value)
    assert str(folder.path / "bad.nii.gz") in str(caught.value)
    assert len(store.keys()) == 1, "the good case is ready all the same"


def test_all_bad_cases_are_named_in_one_line_up_to_a_few(folder: Folder, store: Store) -> None:
    broken = [folder.broken(f"bad{n}") for n in range(NAMED_ERRORS + 3)]
    with pytest.raises(DataError) as caught:
        prepare(Index((*broken[:3], folder.case("good"))), store)
    assert all(f"bad{n}" in str(caught.value) for n in range(3))
    with pytest.raises(DataError, match="bad4") as caught:
        prepare(Index((*broken, folder.case("late"))), store)
    assert "bad5" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_cases_can_be_skipped(folder: Folder, store: Store) -> None:
    empty = folder.path / "empty.nii.gz"
    write_image(empty, np.zeros((9, 9, 9), np.int16), AFFINE)
    gone = Case("gone", (Source(str(folder.path / "gone.nii.gz")),))
    index = Index((folder.broken("bad"), folder.case("good"), Case("empty", (Source(str(empty)),)), gone))
    ready = prepare(index, store, skip_bad=True)
    assert [case.id for case in ready.cases] == ["good"]
    assert [name for name, _ in ready.skipped] == ["bad", "empty", "gone"]
    assert "same value" in ready.skipped[1][1]
    assert str(empty) in ready.skipped[1][1]
    with pytest.raises(DataError, match="3 cases"):
        prepare(Index(tuple(case for case in index.cases if case.id != "good")), store, skip_bad=True)


def test_warnings_of_new_cases_are_passed_on(folder: Folder, store: Store) -> None:
    image = np.full((9, 9, 9), -1000, np.int16)
    image[0, 0, 0] = -600
    write_image(folder.path / "air.nii.gz", image, AFFINE)
    ready = prepare(Index((Case("air", (Source(str(folder.path / "air.nii.gz")),)),)), store)
    assert ready.warnings[0][0] == "air"
    assert "whole volume is kept" in ready.warnings[0][1]


def test_the_disk_is_checked_before_anything_is_read(
    folder: Folder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.path)._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    forbid(monkeypatch, "read_case", "content_hash")
    leftover = store.create().root / "partial" / ("ab" * 32)
    leftover.mkdir()
    with pytest.raises(EnvironmentFault, match=r"2 cases need about 0.2 GB, but 0.1 GB are free") as caught:
        prepare(folder.index(2), store)
    assert "data.store" in caught.value.hint
    assert not leftover.exists(), "what a killed job has left is no reason to complain about space"


def test_stopping_between_two_cases_keeps_what_is_ready(folder: Folder, store: Store) -> None:
    answers = iter([False, False, True])
    with pytest.raises(StopRequested, match="2 of 4 volumes ready"):
        prepare(folder.index(4), store, should_stop=lambda: next(answers))
    assert len(store.keys()) == 2
    assert len(prepare(folder.index(4), store).keys) == 4


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from VoCoCore.data.cases import load_index
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sources import index_source
from VoCoCore.data.store import Store
from test_prepare import SETTINGS
def say(*report): print(*report, flush=True)
if __name__ == "__main__":
    prepare_index(load_index(sys.argv[1]), SETTINGS, Store(sys.argv[2]), workers=2, progress=say)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_with_its_workers_at_work_the_next_call_goes_on(
    folder: Folder, store: Store, tmp_path: Path
) -> None:
    index = folder.index(16)
    save_index(index, tmp_path / "index.json")
    script = tmp_path / "job.py"
    script.write_text(KILLED)
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "index.json"),
        str(store.root),
        str(Path(__file__).parent),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        while not job.stdout.readline().startswith("2 "):
            assert job.poll() is None
        job.send_signal(signal.SIGKILL)
        job.stdout.read()  # ends when the last worker, which shares the pipe, has gone too
    ready_before = len(store.keys())
    assert 2 <= ready_before < 16
    ready = prepare(index, Store(store.root))
    assert len(ready.keys) == len(store.keys()) == 16
    assert not list((store.root / "partial").iterdir())
    alone = prepare(index, Store(tmp_path / "alone"))
    for key in ready.keys:
        np.testing.assert_array_equal(store.open(key).read(), Store(tmp_path / "alone").open(key).read())
    assert alone.keys == ready.keys


# --- real volumes ---


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("ct_torso/torso_3mm.nii.gz", "ct"),
        ("ct_torso/chest_1p5mm.nii.gz", "ct"),
        ("mr_body/body_3mm.nii.gz", "mr"),
        ("ct_dicom", "ct"),
    ],
)
def test_real_volumes_are_recognised_and_stay_in_place(
    shared_data: Path, store: Store, source: str, kind: str
) -> None:
    """Values found by way of the patient's space are those of the image, whatever its orientation there."""
    index = index_source(shared_data / source)
    image, affine = read_case(index.cases[0])
    volume = store.open(prepare(index, store).keys[0])
    rule = volume.header["plan"]["intensities"][0]
    assert rule["kind"] == kind
    inside = (
        np.random.default_rng(0).uniform(0.2, 0.8, (3, 20_000)) * np.subtract(volume.shape[1:], 1)[:, None]
    )
    prepared = map_coordinates(volume.read()[0] / 255, inside, order=1)
    world = volume.affine[:3, :3] @ inside + volume.affine[:3, 3:]
    there = np.linalg.inv(affine[:3, :3]) @ (world - affine[:3, 3:])
    expected = map_coordinates(windowed(image[0].astype(float), rule["low"], rule["high"]), there, order=1)
    assert np.corrcoef(prepared, expected)[0, 1] > 0.93
    assert np.abs(prepared - expected).mean() < 0.05
