"""From nodes to files: where every voxel lies, what labels hold, what is passed by path, and what can go wrong."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import made_scene
import numpy as np
import pytest
import SimpleITK
import slicer
from made_scene import GEOMETRIES, corners, finish, imageOf, noise, transform, turn, volume, warp, world

from VoCoCore.data.cases import Case, Index, Source, load_index, save_index
from VoCoCore.data.images import read_case, read_image
from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, StopRequested
from VoCoSlicerLib import export, export_writer
from VoCoSlicerLib.export import CaseExport, SceneCase
from VoCoSlicerLib.snapshots import patientOf


def exported(scene, nodes, folder, **facts):
    """The index of an export where each node is a case."""
    cases = [SceneCase((node.GetID(),)) for node in nodes]
    return load_index(CaseExport(scene, cases, folder, **facts).run())


def files(folder):
    return sorted(path.name for path in Path(folder).glob("volume-*"))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_corner_lies_where_vtk_says(scene, tmp_path, geometry, moved):
    node = volume(scene, noise(), geometry=geometry)
    if moved:
        inner = transform(scene, turn(17, (40, 0, -3)), node)
        inner.SetAndObserveTransformNodeID(transform(scene, turn(-80, (1, 2, 3))).GetID())
    [case] = exported(scene, [node], tmp_path).cases
    image = SimpleITK.ReadImage(case.images[0].path)
    ours, affine = read_case(case)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), noise())
    assert np.array_equal(ours[0], noise().T)
    for ijk, ras in corners(node):
        lps = image.TransformContinuousIndexToPhysicalPoint([float(value) for value in ijk])
        assert np.allclose(np.array(lps) * [-1, -1, 1], ras, atol=1e-6)
        assert np.allclose((affine @ [*ijk, 1])[:3], ras, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_values_of_all_kinds_are_kept(scene, tmp_path, dtype):
    array = noise().clip(0, 100).astype(dtype) + (0.25 if dtype.startswith("f") else 0)
    [case] = exported(scene, [volume(scene, array.astype(dtype))], tmp_path).cases
    found = read_image(case.images[0]).array
    assert found.dtype == dtype and np.array_equal(found, array.T)


def test_colour_and_warped_volumes_are_refused_before_anything_is_written(scene, tmp_path):
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    colour.SetAndObserveImageData(imageOf(np.zeros((4, 20, 20, 3), np.uint8)))
    warped = volume(scene, noise(), "chest")
    warp(scene, warped)
    folder = tmp_path / "out"
    for node, words in ((colour, "photo cannot be used: each voxel holds 3"), (warped, "not linear")):
        with pytest.raises(DataError, match=words) as raised:
            CaseExport(scene, [SceneCase((node.GetID(),))], folder).start()
        assert raised.value.hint and not folder.exists()
    with pytest.raises(SettingsError, match="no volume is chosen"):
        CaseExport(scene, [], folder).start()


def ramp(shape=(30, 40, 50)):
    """Values that rise evenly: linear interpolation of them is exact."""
    k, j, i = np.indices(shape)
    return (2 * i + 3 * j - 5 * k + 100).astype(np.float32)


def test_a_sheared_volume_is_resampled_to_straight_axes(scene, tmp_path):
    node = volume(scene, ramp(), geometry="oblique")
    shear = np.eye(4)
    shear[1, 2] = 0.4
    transform(scene, shear, node)
    [case] = exported(scene, [node], tmp_path).cases
    image = read_image(case.images[0])
    unit = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    assert np.allclose(unit.T @ unit, np.eye(3), atol=1e-9)
    inverse = np.linalg.inv(image.affine)
    for ijk in [(25, 20, 15), (10, 30, 5), (40, 12, 22)]:  # old voxels, looked up in the new image
        x, y, z = (inverse @ [*world(node, ijk), 1])[:3]
        low = np.floor([x, y, z]).astype(int)
        values = [
            image.array[tuple(low + corner)]
            * np.prod(np.where(corner, [x, y, z] - low, 1 - ([x, y, z] - low)))
            for corner in np.ndindex(2, 2, 2)
            for corner in [np.array(corner)]
        ]
        assert sum(values) == pytest.approx(2 * ijk[0] + 3 * ijk[1] - 5 * ijk[2] + 100, abs=0.01)
    for _, ras in corners(node):  # nothing is cut off
        place = (inverse @ [*ras, 1])[:3]
        assert (place >= -1e-6).all() and (place <= np.array(image.array.shape) - 1 + 1e-6).all()


def test_the_same_content_is_written_once(scene, tmp_path):
    node, twin = volume(scene, noise(), "one"), volume(scene, noise(), "two")
    first = exported(scene, [node, twin], tmp_path)
    [name] = files(tmp_path)
    before = (tmp_path / name).stat()
    again = exported(scene, [volume(scene, noise(), "in another session")], tmp_path)
    assert files(tmp_path) == [name] and (tmp_path / name).stat().st_ino == before.st_ino
    assert [case.images[0].path for case in (*first.cases, *again.cases)] == [str(tmp_path / name)] * 3
    transform(scene, turn(5), node)
    exported(scene, [node], tmp_path)
    assert len(files(tmp_path)) == 2  # the same voxels elsewhere are another image
    os.truncate(tmp_path / name, 500)
    exported(scene, [twin], tmp_path)
    assert np.array_equal(read_image(tmp_path / name).array, noise().T)


def test_lists_are_never_written_over(scene, tmp_path):
    one, two = volume(scene, noise(seed=1), "one"), volume(scene, noise(seed=2), "two")
    paths = [CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path).run().name for node in (one, two, one)]
    assert paths == ["index.json", "index-2.json", "index.json"]


def test_file_names_and_the_marker_tell_nobody(scene, tmp_path):
    index = exported(scene, [volume(scene, noise(), "Miller^Anna 1961")], tmp_path)
    assert "Miller" not in " ".join(path.name for path in tmp_path.iterdir())
    assert "Miller" not in (tmp_path / "voco-volumes.json").read_text()
    assert index.cases[0].id == "Miller^Anna 1961"  # as for files: the list itself is private


def test_facts_of_cases_reach_the_list(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), "same name") for n in range(3)]
    cases = [
        SceneCase((nodes[0].GetID(),), classLabel="tumour", split="train"),
        SceneCase((nodes[1].GetID(),), classLabel=0, split="val"),
        SceneCase((nodes[2].GetID(),), name="third"),
    ]
    job = CaseExport(scene, cases, tmp_path)
    index = load_index(job.run())
    assert [(c.id, c.target, c.split) for c in index.cases] == [
        ("same name", "tumour", "train"),
        ("same name-2", 0, "val"),
        ("third", None, None),
    ]
    assert job.volumesById == {c.id: (n.GetID(),) for c, n in zip(index.cases, nodes, strict=True)}


def test_volumes_without_a_name_are_cases_with_one(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), "some") for n in range(3)]
    for node, name in zip(nodes, ("", "  ", None), strict=True):
        node.SetName(name)
    index = load_index(CaseExport(scene, [SceneCase((node.GetID(),)) for node in nodes], tmp_path).run())
    assert [case.id for case in index.cases] == ["case", "case-2", "case-3"]


def test_volumes_of_one_patient_stay_together(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if not tree.GetItemByDataNode(nodes[0]):  # without the modules nobody puts nodes into the tree
        for node in nodes:
            tree.CreateItem(tree.GetSceneItemID(), node)
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "Miller^Anna")
    study = tree.CreateStudyItem(patient, "2026")
    for node in nodes[:2]:
        tree.SetItemParent(tree.GetItemByDataNode(node), study)
    index = exported(scene, nodes, tmp_path)
    one, two, three = (case.patient for case in index.cases)
    assert one == two != three and three == "v2" and "Miller" not in one
    assert patientOf(scene, nodes[0]) == one


def test_channels_share_the_first_grid(scene, tmp_path):
    first = volume(scene, noise(seed=1), "p_t1", "oblique")
    second = volume(scene, noise(seed=2), "p_t2", "oblique")
    coarse = volume(scene, ramp((9, 20, 24)), "p_flair", "oblique")
    coarse.SetOrigin(world(first, (1, 2, 0)))
    job = CaseExport(scene, [SceneCase(tuple(n.GetID() for n in (first, second, coarse)))], tmp_path)
    job.start()
    assert finish(job).warnings == ("p_flair is resampled onto the grid of p_t1",)
    index = load_index(job.index)
    array, affine = read_case(index.cases[0])
    assert index.channels == ("t1", "t2", "flair") and index.cases[0].id == "p"
    assert np.array_equal(array[1], noise(seed=2).T)
    assert np.allclose(array[2, 1:, 2:, :], ramp((9, 20, 24)).T[:-1, :-2, :], atol=1e-3)
    assert np.allclose((affine @ [3, 4, 5, 1])[:3], world(first, (3, 4, 5)))


@pytest.fixture
def patient(monkeypatch):
    """The caller's thread takes one case at a time; returns the names of those that were taken."""
    taken, real = [], export.takeCase
    monkeypatch.setattr(export, "_SLICE", 0)
    monkeypatch.setattr(export, "takeCase", lambda *args: taken.append(args[1].name) or real(*args))
    return taken


def begun(scene, nodes, folder):
    job = CaseExport(scene, [SceneCase((node.GetID(),), name=node.GetName()) for node in nodes], folder)
    job.start()
    return job


def test_many_cases_are_taken_a_few_at_a_time(scene, tmp_path, patient):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(5)]
    job = begun(scene, nodes, tmp_path)
    for number in range(1, 6):
        assert patient == [f"v{n}" for n in range(number)] and files(tmp_path) == []
        job.poll()
    slicer.util.arrayFromVolume(nodes[2])[:] = noise(seed=9)
    slicer.util.arrayFromVolumeModified(nodes[2])
    assert finish(job).error is None
    cases = load_index(job.index).cases
    assert [case.id for case in cases] == [f"v{n}" for n in range(5)]
    assert np.array_equal(read_image(cases[2].images[0]).array, noise(seed=9).T)


def test_what_cannot_be_taken_later_is_told_before_anything_is_written(scene, tmp_path, patient):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    warp(scene, nodes[2])
    state = finish(begun(scene, nodes, tmp_path / "out"))
    assert "v2 cannot be used" in str(state.error) and not (tmp_path / "out").exists()
    job = begun(scene, nodes, tmp_path / "out")
    job.cancel()
    assert isinstance(finish(job).error, StopRequested) and not (tmp_path / "out").exists()


def test_of_a_volume_that_went_before_its_turn_no_inner_name_is_said(scene, tmp_path):
    node = volume(scene, noise(), "ct")
    cases = [SceneCase((node.GetID(),)), SceneCase((node.GetID(),), "vtkMRMLSegmentationNode7")]
    with pytest.raises(DataError, match="a segmentation that was chosen is no longer in the scene"):
        CaseExport(scene, cases[1:], tmp_path / "out").start()
    scene.Clear(0)
    with pytest.raises(DataError, match="a volume that was chosen is no longer in the scene") as raised:
        CaseExport(scene, cases[:1], tmp_path / "out").start()
    assert "vtkMRML" not in str(raised.value)


def test_a_scene_that_is_closed_while_cases_are_taken_gives_no_other_volume(scene, tmp_path, patient):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    job = begun(scene, nodes, tmp_path / "out")
    scene.Clear(0)
    others = [volume(scene, noise(seed=9), "other") for _ in range(3)]
    assert [each.GetID() for each in others] == [each.GetID() for each in nodes]
    assert "the scene has changed" in str(finish(job).error) and not (tmp_path / "out").exists()


def test_a_scene_that_is_closed_while_changed_cases_are_taken_again_gives_no_other_volume(
    scene, tmp_path, patient
):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    job = begun(scene, nodes, tmp_path / "out")
    made_scene.written(job)
    slicer.util.arrayFromVolumeModified(nodes[1])
    for _ in range(2):  # up to where the second one was found to have changed
        job.poll()
    scene.Clear(0)
    others = [volume(scene, noise(seed=9), "other") for _ in range(3)]
    assert [each.GetID() for each in others] == [each.GetID() for each in nodes]
    assert finish(job).error is None and patient == ["v0", "v1", "v2"]
    for number, case in enumerate(load_index(job.index).cases):
        assert np.array_equal(read_case(case)[0][0].T, noise(seed=number))


def test_cases_need_the_same_number_of_channels(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    cases = [SceneCase((nodes[0].GetID(),)), SceneCase((nodes[1].GetID(), nodes[2].GetID()))]
    with pytest.raises(DataError, match="v0 has 1 volume and v1 has 2"):
        CaseExport(scene, cases, tmp_path).run()


def test_channels_of_all_cases_show_the_same(scene, tmp_path):
    """Else the second one's FLAIR would be trained on as a T2, without a word."""
    names = ("a_t1", "a_t2", "b_T1", "b_flair", "c_t2", "c_t1", "d_t1w", "d_other")
    ids = [volume(scene, noise(seed=number), name).GetID() for number, name in enumerate(names)]
    one, other, turned, unknown = (SceneCase(pair) for pair in zip(ids[::2], ids[1::2], strict=True))
    for case, told in ((other, "those of b t1, flair"), (turned, "those of c t2, t1")):
        with pytest.raises(DataError, match=f"the channels of a are t1, t2, {told}"):
            CaseExport(scene, [one, case], tmp_path).run()
    CaseExport(scene, [one, unknown], tmp_path / "unknown").run()
    decathlon = cohort(tmp_path / "disk", None, ("FLAIR", "T1w"))
    with pytest.raises(DataError, match=r"the channels of the scene are t1, t2, those of .* FLAIR, T1w"):
        CaseExport(scene, [one], tmp_path, [decathlon]).run()
    with pytest.raises(DataError, match=r"those of .* t1, t2"):
        CaseExport(scene, [], tmp_path, [decathlon, cohort(tmp_path / "two", None, ("t1", "t2"))]).run()


def cohort(folder, labels, channels=("image",), label="l.nrrd"):
    folder.mkdir()
    case = Case("disk", (Source(str(folder / "i.nrrd")),) * len(channels), Source(str(folder / label)), "p")
    save_index(Index((case,), channels, labels), folder / "index.json")
    return folder / "index.json"


def test_cohorts_on_disk_join_the_list(scene, tmp_path):
    path = cohort(tmp_path / "a", None)
    node = volume(scene, noise(), "disk")
    index = exported(scene, [node], tmp_path / "out", folders=[path])
    assert [case.id for case in index.cases] == ["disk", "disk-2"]
    assert index.cases[1].images[0].path == str(tmp_path / "a" / "i.nrrd")
    alone = load_index(CaseExport(scene, [], tmp_path / "out", folders=[path]).run())
    assert alone.cases == load_index(path).cases and alone.labels is None
    two = cohort(tmp_path / "b", None, ("t1", "t2"))
    with pytest.raises(DataError, match="1 and 2 images"):
        exported(scene, [node], tmp_path / "out", folders=[two])


def test_a_changed_volume_is_written_again(scene, tmp_path):
    node = volume(scene, noise(seed=1))
    job = CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path)
    job.start()
    made_scene.written(job)
    slicer.util.arrayFromVolume(node)[:] = noise(seed=2)
    slicer.util.arrayFromVolumeModified(node)
    state = finish(job)
    assert state.error is None and state.done == state.total
    assert np.array_equal(read_image(load_index(job.index).cases[0].images[0]).array, noise(seed=2).T)


def test_a_volume_that_never_rests_is_given_up(scene, tmp_path):
    node = volume(scene, noise(seed=1), "restless")
    job = CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path)
    job.start()
    for _ in range(400):
        node.GetImageData().Modified()
        if (state := job.poll()).finished:
            break
        made_scene.written(job)
    assert "restless keeps changing" in str(state.error)


def test_a_volume_may_be_deleted_meanwhile(scene, tmp_path):
    node = volume(scene, noise(seed=1))
    job = CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path)
    job.start()
    scene.RemoveNode(node)
    del node
    assert finish(job).error is None
    assert np.array_equal(read_image(load_index(job.index).cases[0].images[0]).array, noise(seed=1).T)


def test_a_closed_scene_gives_the_id_to_another_volume_which_is_not_exported(scene, tmp_path):
    first = volume(scene, noise(), "first")
    job = CaseExport(scene, [SceneCase((first.GetID(),))], tmp_path)
    job.start()
    taken = first.GetID()
    scene.Clear(0)
    assert volume(scene, noise(seed=9), "second").GetID() == taken
    while not (state := job.poll()).finished:
        time.sleep(0.002)
    assert state.error is None
    array, _ = read_case(load_index(job.index).cases[0])
    assert np.array_equal(array[0].T, noise())


@pytest.fixture
def slow(monkeypatch):
    """Writing that waits until it is let go on."""
    go, real = threading.Event(), export_writer.writeNrrd

    def waiting(*args, **words):
        go.wait(60)
        return real(*args, **words)

    monkeypatch.setattr(export_writer, "writeNrrd", waiting)
    return go


def test_poll_does_not_wait_and_cancel_stops(scene, tmp_path, slow):
    job = CaseExport(scene, [SceneCase((volume(scene, noise()).GetID(),))], tmp_path / "out")
    job.start()
    for _ in range(20):
        assert not job.poll().finished  # it would be, had this waited for the one who writes
    job.cancel()
    slow.set()
    state = finish(job)
    assert isinstance(state.error, StopRequested) and job.index is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["voco-volumes.json"]


def test_two_exports_of_one_volume_do_not_meet(scene, tmp_path, slow):
    node = volume(scene, noise())
    jobs = [CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path / "out") for _ in range(3)]
    for job in jobs:
        job.start()
    jobs[1].cancel()
    slow.set()
    states = [finish(job) for job in jobs]
    assert [type(state.error) for state in states] == [type(None), StopRequested, type(None)]
    assert jobs[0].index == jobs[2].index and len(files(tmp_path / "out")) == 1
    assert np.array_equal(read_image(load_index(jobs[0].index).cases[0].images[0]).array, noise().T)


def test_no_room_is_said_before_writing(scene, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(export_writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentFault, match=r"0\.0 GB left") as raised:
        exported(scene, [volume(scene, noise())], tmp_path)
    assert "free some space" in raised.value.hint and not files(tmp_path)


def test_a_disk_that_fills_up_meanwhile(scene, tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("VoCoSlicerLib.nrrd._write", full)
    with pytest.raises(EnvironmentFault, match="disk is full"):
        exported(scene, [volume(scene, noise())], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["voco-volumes.json"]


def test_folders_that_cannot_be(scene, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault) as raised:
        exported(scene, [volume(scene, noise())], tmp_path / "file" / "out")
    assert raised.value.hint
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(EnvironmentFault, match="permission"):
            exported(scene, [volume(scene, noise())], tmp_path / "locked")


def test_the_list_is_plain_json_with_relative_paths(scene, tmp_path):
    path = CaseExport(scene, [SceneCase((volume(scene, noise(), "ä ß").GetID(),))], tmp_path / "a b é").run()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["cases"][0]["images"][0].startswith("volume-") and content["cases"][0]["id"] == "ä ß"


def test_nothing_of_a_volume_is_kept_after_its_export(scene, tmp_path):
    node = volume(scene, noise())
    job = CaseExport(scene, [SceneCase((node.GetID(),))], tmp_path)
    held = node.GetImageData().GetPointData().GetScalars().GetReferenceCount()
    job.start()
    assert finish(job).error is None
    assert node.GetImageData().GetPointData().GetScalars().GetReferenceCount() == held
