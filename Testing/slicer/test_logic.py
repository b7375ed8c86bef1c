"""The module's logic without a window: choices in the scene, settings, checks, starts, exit codes; with real jobs."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import made_scene as made
import numpy as np
import pytest
import slicer

from VoCoCore.data.cases import Case, Index, Source, load_index, save_index
from VoCoCore.errors import DataError, SettingsError, VocoError
from VoCoSlicerLib import choices, logic_cases, logic_estimate, logic_settings
from VoCoSlicerLib.choices import CaseChoice, FolderChoice
from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.snapshots import SceneCase
from VoCoSlicerLib.volume_table import VolumeTable, merged

SMALL = {"preset": "tiny", "encoder": "unet", "device": "cpu", "workers": 0}


@pytest.fixture
def scene():
    made_scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(made_scene)
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLApplicationLogic(application)
    segmentations.SetMRMLScene(made_scene)
    yield made_scene
    segmentations.SetMRMLScene(None)
    application.SetMRMLScene(None)


@pytest.fixture
def logic(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("VOCO_PYTHON", sys.executable)
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    return VoCoLogic(scene, {"folder": str(tmp_path / "VoCo")})


def body(scene, name, seed=0, edge=40):
    """A volume of ``edge`` voxels a side whose values are those of a CT: a ball of 40 HU in air."""
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    ball = np.where((at**2).sum(0) < 0.7, 40, -1000) + made.noise((edge,) * 3, seed) // 100
    return made.volume(scene, ball.astype(np.int16), name)


def ballSegmentation(scene, volume, name="ball"):
    """A segmentation with one segment of the middle of ``volume``, drawn by Slicer's own import."""
    edge = volume.GetImageData().GetDimensions()[0]
    labels = np.zeros((edge,) * 3, np.uint8)
    labels[edge // 4 : -edge // 4, edge // 4 : -edge // 4, edge // 4 : -edge // 4] = 1
    map_ = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    map_.SetAndObserveImageData(made.imageOf(labels))
    map_.CopyOrientation(volume)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(map_, node)
    node.GetSegmentation().GetNthSegment(0).SetName(name)
    scene.RemoveNode(map_)
    return node


def parameters(scene):
    """What the parameter node's wrapper offers to the logic, without Qt."""
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "VoCo")
    return SimpleNamespace(parameterNode=node, folders="[]", pretrainSettings="{}", finetuneSettings="{}")


# Choices


def test_choices_come_back_with_a_saved_scene(scene, tmp_path):
    one, two = body(scene, "one"), body(scene, "two")
    segmentation = ballSegmentation(scene, two)
    node = parameters(scene).parameterNode
    written = [
        CaseChoice(one.GetID(), True, "", True, "sick"),
        CaseChoice(two.GetID(), False, segmentation.GetID(), False, ""),
    ]
    choices.writeCases(node, written)
    one.SetName("another name")
    assert list(choices.readCases(node).values()) == written
    scene.SetURL(str(tmp_path / "saved.mrml"))
    scene.Commit()
    scene.Clear(False)
    body(scene, "takes the first ID", edge=16)
    scene.SetURL(str(tmp_path / "saved.mrml"))
    scene.Import()
    read = scene.GetFirstNodeByName("VoCo")
    found = list(choices.readCases(read).values())
    names = [scene.GetNodeByID(choice.volumeId).GetName() for choice in found]
    assert names == ["another name", "two"] and found[0].volumeId != written[0].volumeId
    assert [(one.chosen, one.byHand, one.classLabel) for one in found] == [
        (True, True, "sick"),
        (False, False, ""),
    ]
    assert scene.GetNodeByID(found[1].segmentationId).GetName() == "two segmentation"


@pytest.mark.parametrize("count", ["9" * 5000, "999999999999", "-1", "x"])
def test_a_scene_of_somebody_elses_may_say_anything(scene, count):
    node = parameters(scene).parameterNode
    node.SetParameter("cases", count)
    assert choices.readCases(node) == {}
    kept = SimpleNamespace(folders="[" * 100_000, pretrainSettings="[" * 100_000)
    assert choices.readFolders(kept) == [] and choices.readSettings(kept, "pretrain") == {}
    kept.folders = '[{"source": 5, "chosen": [], "cases": 1e400}]'
    assert choices.readFolders(kept) == []
    kept.folders = '[{"source": 5, "chosen": [], "warnings": [1]}]'
    assert choices.readFolders(kept) == [choices.FolderChoice("5", chosen=False, warnings=("1",))]


def test_a_deleted_volume_is_chosen_no_longer(scene):
    one, two = body(scene, "one"), body(scene, "two")
    node = parameters(scene).parameterNode
    choices.writeCases(node, [CaseChoice(one.GetID(), True), CaseChoice(two.GetID(), True)])
    scene.RemoveNode(one)
    assert list(choices.readCases(node)) == [two.GetID()]
    choices.writeCases(node, [CaseChoice(two.GetID(), False)])
    assert node.GetParameter("case1") == "" and node.GetNodeReferenceID("case1.volume") is None
    assert [choice.volumeId for choice in choices.readCases(node).values()] == [two.GetID()]


def test_writing_the_same_choices_says_nothing(scene):
    one = body(scene, "one")
    node = parameters(scene).parameterNode
    said = []
    node.AddObserver("ModifiedEvent", lambda *_: said.append(1))
    choices.writeCases(node, [CaseChoice(one.GetID(), True), CaseChoice(one.GetID(), False)][:1])
    assert len(said) == 1
    choices.writeCases(node, [CaseChoice(one.GetID(), True)])
    assert len(said) == 1


def test_settings_and_folders_are_kept_as_json(scene):
    kept = parameters(scene)
    choices.changeSetting(kept, "pretrain", "crops.counts", (3, 3, 1))
    choices.changeSetting(kept, "pretrain", "preset", "tiny")
    assert choices.readSettings(kept, "pretrain") == {"crops.counts": [3, 3, 1], "preset": "tiny"}
    choices.changeSetting(kept, "pretrain", "preset", None)
    assert choices.readSettings(kept, "pretrain") == {"crops.counts": [3, 3, 1]}
    assert choices.readSettings(kept, "finetune") == {}
    folder = FolderChoice("/data/cohort", "/data/index.json", True, 12, ("one is small",))
    choices.writeFolders(kept, [folder])
    assert choices.readFolders(kept) == [folder]
    kept.folders = '{"not": "a list of folders"}'
    assert choices.readFolders(kept) == []


def test_a_segmentation_chosen_by_hand_is_kept_until_it_is_gone(scene):
    volume = body(scene, "liver 1")
    suggested, other = ballSegmentation(scene, volume), ballSegmentation(scene, body(scene, "other"))
    table = VolumeTable(scene)
    while table.refresh() or table.pending:
        pass
    known = table.labelNodes()
    kept = {volume.GetID(): CaseChoice(volume.GetID(), True)}
    assert merged(table.rows, kept, known)[0].segmentationId == suggested.GetID()
    kept = {volume.GetID(): CaseChoice(volume.GetID(), True, other.GetID(), True)}
    assert merged(table.rows, kept, known)[0].segmentationId == other.GetID()
    kept = {volume.GetID(): CaseChoice(volume.GetID(), True, "", True)}
    assert merged(table.rows, kept, known)[0].segmentationId == ""
    kept = {volume.GetID(): CaseChoice(volume.GetID(), True, "vtkMRMLSegmentationNode99", True)}
    assert merged(table.rows, kept, known)[0].segmentationId == suggested.GetID()


def test_the_table_describes_one_volume_at_a_look_and_sees_changes(scene):
    volumes = [body(scene, f"v{number}", edge=16) for number in range(3)]
    table = VolumeTable(scene)
    table.refresh()
    assert [row.name for row in table.rows] == ["v0", "v1", "v2"]
    assert sum(bool(any(row.size)) for row in table.rows) == 1 and table.pending == 2
    for _ in range(4):
        table.refresh()
    assert all(row.size == (16, 16, 16) for row in table.rows) and not table.refresh()
    volumes[1].SetName("renamed")
    assert table.refresh() and table.rows[1].name == "renamed"
    table.refresh()
    scene.RemoveNode(volumes[0])
    assert table.refresh() and [row.name for row in table.rows] == ["renamed", "v2"]


# Cases


def test_chosen_cases_have_what_their_task_needs(scene):
    names = ["p1_t1", "p1_flair", "p2_t1"]
    volumes = [body(scene, name, edge=16) for name in names]
    ids = [volume.GetID() for volume in volumes]
    segmentation = ballSegmentation(scene, volumes[0], "tumour")
    kept = [
        CaseChoice(ids[0], True, segmentation.GetID(), False, ""),
        CaseChoice(ids[1], True, "", False, "sick"),
        CaseChoice(ids[2], False, "", False, "well"),
    ]
    (case,) = logic_cases.chosenCases(scene, kept, grouped=True, task="segmentation")
    assert set(case.volumeIds) == {ids[0], ids[1]}
    assert (case.segmentationId, case.classLabel) == (segmentation.GetID(), None)
    assert logic_cases.labelNames(scene, [case]) == ["tumour"]
    mask = replace(kept[1], segmentationId=ballSegmentation(scene, volumes[1], "mask").GetID(), byHand=True)
    (case,) = logic_cases.chosenCases(scene, [kept[0], mask], grouped=True, task="segmentation")
    assert case.segmentationId == mask.segmentationId
    (case,) = logic_cases.chosenCases(scene, kept, grouped=True, task="classification")
    assert (case.segmentationId, case.classLabel) == (None, "sick")
    plain = logic_cases.chosenCases(scene, kept)
    assert [(one.volumeIds, one.segmentationId) for one in plain] == [((ids[0],), None), ((ids[1],), None)]


def test_channels_of_two_patients_are_no_case_whatever_their_names(scene):
    """As DICOM series are called; a volume that a module has made lies beside the patients."""
    made = [body(scene, name, edge=16) for name in ("AX T1", "AX T1", "AX T2", "AX T2", "y_t1", "y_t2")]
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for name, places in (("one", (0, 3)), ("two", (1, 2)), ("three", (4,))):
        patient = tree.CreateSubjectItem(tree.GetSceneItemID(), name)
        for place in places:
            tree.SetItemParent(tree.CreateItem(tree.GetSceneItemID(), made[place]), patient)
    found = logic_cases.groupsOf(scene, [node.GetID() for node in made], grouped=True)
    assert found == [[made[a].GetID(), made[b].GetID()] for a, b in ((0, 3), (1, 2), (4, 5))]


def test_scripts_name_volumes_by_node_id_or_name(scene):
    volume = body(scene, "chest", edge=16)
    for word in (volume, volume.GetID(), "chest"):
        assert logic_cases.nodesOf(scene, [word]) == [volume]
    with pytest.raises(SettingsError, match="no node 'belly'"):
        logic_cases.nodesOf(scene, ["belly"])
    for alone in (volume, "chest"):
        with pytest.raises(SettingsError, match="instead of a list"):
            logic_cases.casesOf(scene, alone)
    with pytest.raises(SettingsError, match="1 volumes and 2 classLabels"):
        logic_cases.casesOf(scene, [volume], classLabels=["a", "b"])
    with pytest.raises(DataError, match="no segmentation belongs to chest"):
        logic_cases.casesOf(scene, [volume], labelled=True)


def test_lists_of_a_script_may_be_numpys_and_are_refused_in_words(logic, scene, tmp_path):
    volume, cases = body(scene, "chest", edge=16), tmp_path / "cases"
    facts = {"classLabels": np.array([1, 0]), "names": np.array([7, 8])}
    made = load_index(logic.exportIndex(iter([volume, volume]), cases, **facts)).cases
    assert [(case.id, case.target) for case in made] == [("7", 1), ("8", 0)]
    wrongs = {"no list of volumes": None, "NoneType is no node": [None], "ndarray": [np.zeros(3)]}
    for words, wrong in wrongs.items():
        with pytest.raises(SettingsError, match=words):
            logic.exportIndex(wrong, cases)
    for what in ("segmentation", "folder"):
        with pytest.raises(SettingsError, match=f"one {what} was given instead of a list"):
            logic.exportIndex([volume], cases, **{f"{what}s": "chest"})
    unset = {"folders": None, "index": None, "python": None}  # as a script's own function hands them on
    with pytest.raises(SettingsError, match="preset cannot be"):
        logic.pretrain([volume], tmp_path / "run", preset="?", **unset)


def test_a_node_of_a_closed_scene_is_not_taken_for_the_one_that_got_its_id(logic, scene):
    """Else a script that still holds it would read another patient's volume."""
    gone = body(scene, "first", edge=16)
    scene.Clear(0)
    assert body(scene, "second", edge=16).GetID() == gone.GetID()
    for ask in (lambda: logic_cases.casesOf(scene, [gone]), lambda: logic.preview.setVolume(gone)):
        with pytest.raises(SettingsError, match="first is no longer in the scene"):
            ask()


@pytest.mark.parametrize("kind", ["vtkMRMLSegmentationNode", "vtkMRMLModelNode"])
def test_a_node_of_another_kind_is_refused_in_words(logic, scene, tmp_path, kind):
    node = scene.AddNewNodeByClass(kind, "thing")
    with pytest.raises(DataError, match="thing cannot be used: it is no volume"):
        logic.exportIndex([node], tmp_path / "cases")
    logic.preview.setVolume(node)
    logic.preview.show()
    assert "thing holds no image" in str(logic.preview.error)
    logic.cleanup()


@pytest.mark.parametrize("name", ["", None])
def test_a_volume_without_a_name_is_still_called_something(logic, scene, tmp_path, name):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "x")
    node.SetName(name)
    with pytest.raises(DataError, match=r"^Volume cannot be used"):
        logic.exportIndex([node], tmp_path / "cases")
    logic.preview.setVolume(node)
    logic.preview.show()
    assert str(logic.preview.error).startswith("Volume holds no image")
    logic.cleanup()


# Settings


def test_words_of_scripts_become_dotted_names():
    values = logic_settings.named("pretrain", {"preset": "tiny", "steps": 20}, {"crops.counts": (2, 2, 1)})
    assert values == {"preset": "tiny", "optim.steps": 20, "crops.counts": (2, 2, 1)}
    with pytest.raises(SettingsError, match=r"no option 'step'\. Did you mean 'steps'"):
        logic_settings.named("pretrain", {"step": 20})
    with pytest.raises(SettingsError, match="no option 'task'"):
        logic_settings.named("pretrain", {"task": "segmentation"})


def test_options_say_the_same_as_the_values():
    from VoCoCore.cli.options import given_settings
    from VoCoCore.cli.pretrain import parser

    values = {
        "crops.counts": (3, 3, 1),
        "prepare.window": [-175.0, 250.0],
        "model.checkpointing": True,
        "optim.lr": 1e-4,
    }
    words = logic_settings.asOptions({**values, "data.limit": None})
    given = given_settings(parser().parse_args(["--run", "x", *words]), logic_settings.CLASSES["pretrain"])
    settings = logic_settings.resolve("pretrain", given)
    assert settings.crops.counts == (3, 3, 1) and settings.prepare.window == (-175.0, 250.0)
    assert settings.model.checkpointing is True and settings.optim.lr == 1e-4


def test_what_the_machine_lacks_is_said(tmp_path):
    needs = logic_estimate.Needs(32_000, 100, 1.0, 7200, "cpu", roomMb=16_000)
    (said,) = logic_estimate.lacking(needs, tmp_path / "new" / "run", 5)
    assert "33.6 GB of memory" in said and "16.8 GB are free" in said
    needs = replace(needs, roomMb=64_000)
    assert logic_estimate.lacking(needs, tmp_path, 5) == []
    (said,) = logic_estimate.lacking(needs, tmp_path, 10**12)
    assert "of disk are needed" in said
    assert logic_estimate.lacking(replace(needs, cases=4), tmp_path, 10**12) == [], (
        "the job counts for itself"
    )


@pytest.mark.parametrize("text", ["", "about 3 GB", "[]", "{}", '{"memory_mb": "much"}'])
def test_an_estimate_of_another_version_is_an_error_in_words(text):
    with pytest.raises(VocoError, match="cannot be understood"):
        logic_estimate.readNeeds(text)


class PlayedTask:
    """A command that has ended already with figures; ``words`` are its arguments, ``listed`` its list of cases."""

    def __init__(self, words):
        source = next((word.split("=", 1)[1] for word in map(str, words) if "data.source" in word), "")
        self.words, self.source = words, source
        self.listed = load_index(source) if source else None

    def start(self):
        return self

    def poll(self):
        return SimpleNamespace(running=False)

    def error(self):
        return None

    def cancel(self):
        pass

    def result(self):
        figures = dict.fromkeys(("memory_mb", "checkpoints_mb", "volume_mb", "seconds", "room_mb"), 1)
        return json.dumps({**figures, "device": "cpu", "cases": 1, "plan": [], "warnings": []})


@pytest.fixture
def tasks(logic, monkeypatch):
    """The commands that were played."""
    played = []
    monkeypatch.setattr(logic, "backgroundTask", lambda words: played.append(PlayedTask(words)) or played[-1])
    return played


def estimated(logic, tmp_path, **chosen):
    job = logic.estimate("pretrain", tmp_path / "run", {"preset": "tiny"}, **chosen)
    job.waitFor()
    return job.needs


def test_a_pre_training_is_estimated_for_the_channels_of_its_cases(logic, scene, tasks, tmp_path):
    grouped = [
        SceneCase(
            tuple(body(scene, f"{case}_{name}", edge=8).GetID() for name in ("t1", "t1ce", "t2", "flair"))
        )
        for case in ("a", "b")
    ]
    needs = estimated(logic, tmp_path, cases=grouped)
    assert len(tasks[0].listed.channels) == len(tasks[0].listed.cases[0].images) == 4
    assert needs.cases is None and needs.diskMb(2) == 3, "the list stands for both cases"
    assert not Path(tasks[0].source).exists() and not (tmp_path / "exported volumes").exists()
    alone = [SceneCase(case.volumeIds[:1]) for case in grouped]
    estimated(logic, tmp_path, cases=alone)
    assert len(tasks[1].listed.channels) == 1
    with pytest.raises(DataError, match="1 and 4 volumes"):
        estimated(logic, tmp_path, cases=[grouped[0], alone[1]])


def test_an_estimate_also_says_why_a_job_may_teach_nothing(tmp_path):
    figures = dict.fromkeys(("memory_mb", "checkpoints_mb", "volume_mb", "seconds", "room_mb"), 1)
    warning = {"message": "crops of 16 x 16 x 32 voxels leave 2", "hint": "fewer base crops"}
    text = json.dumps({**figures, "device": "cpu", "cases": 1, "plan": [], "warnings": [warning]})
    assert logic_estimate.lacking(logic_estimate.readNeeds(text), tmp_path, 1) == [
        "crops of 16 x 16 x 32 voxels leave 2 (fewer base crops)"
    ]


def test_a_pre_training_on_cohorts_alone_is_estimated_for_their_channels(logic, tasks, tmp_path):
    images = tuple(Source(str(tmp_path / name)) for name in ("t1.nii", "t2.nii"))
    save_index(Index((Case("one", images),), ("t1", "t2")), tmp_path / "index.json")
    estimated(logic, tmp_path, folders=[tmp_path / "index.json"])
    assert tasks[0].listed.channels == ("t1", "t2") and (tmp_path / "index.json").exists()
    assert estimated(logic, tmp_path).cases == 1 and tasks[1].listed is None


def test_an_estimate_that_is_given_up_leaves_no_file(logic, tasks, tmp_path, scene, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    case = SceneCase((body(scene, "one", edge=8).GetID(),))
    job = logic.estimate("pretrain", tmp_path / "run", {"preset": "tiny"}, cases=[case])
    job.cancel()
    assert job.poll().finished and tasks == []
    job = logic.estimate("pretrain", tmp_path / "run", {"preset": "tiny"}, cases=[case])
    monkeypatch.setattr(PlayedTask, "poll", lambda self: SimpleNamespace(running=True))
    job.poll()
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    job.cancel()
    assert list((tmp_path / "scratch").iterdir()) == []
