"""The section "Volumes", driven by hand: rows, choices, cohorts on disk, the check in the background."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import made_scene as made
import numpy as np
import pytest
from hand import Hand

from VoCoSlicerLib.choices import readCases, readFolders
from VoCoSlicerLib.logic_steps import Progress

NAME, SIZE, SPACING, KIND, SEGMENTATION, CLASS, NOTES = range(7)


def ball(scene, name, edge=32):
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    values = np.where((at**2).sum(0) < 0.7, 40, -1000) + made.noise((edge,) * 3) // 100
    return made.volume(scene, values.astype(np.int16), name)


@pytest.fixture
def volumes(host):
    return [ball(host.scene, "liver 1"), ball(host.scene, "liver 2")]


@pytest.fixture
def hand(voco, host, volumes):
    voco.openSection("volumes")
    panel = voco.panel("volumes")
    made_hand = Hand(panel.widget, host)
    made_hand.panel = panel
    made_hand.until(lambda: len(made_hand.rows("volumesTable")) == len(volumes))
    made_hand.until(lambda: all(row[KIND] for row in made_hand.rows("volumesTable")))
    return made_hand


def chosen(hand):
    kept = readCases(hand.panel.parameters.parameterNode)
    return [name for name in kept if kept[name].chosen]


def test_rows_say_what_the_volumes_are(hand, host):
    made.volume(host.scene, made.noise((1, 40, 40)), "flat")
    hand.until(lambda: len(hand.rows("volumesTable")) == 3)
    rows = hand.until(lambda: [row for row in hand.rows("volumesTable") if row[NOTES]])
    assert hand.rows("volumesTable")[0][:4] == ["liver 1", "32 x 32 x 32", "1 x 1 x 1", "CT"]
    assert rows[0][NAME] == "flat" and "not 3D" in rows[0][NOTES]


def test_columns_fit_a_narrow_panel_and_keep_the_widths_of_a_user(hand, host, volumes):
    long = "a volume whose name says when and where and of whom it was made"
    mask = np.ones((32, 32, 32), bool)
    drawn = made.segmentation(
        host.scene, volumes[0], {"liver": mask}, "liver 1 segmentation of the third reader"
    )
    volumes[1].SetName(long)
    hand.until(lambda: hand.rows("volumesTable")[1][NAME] == long)
    table = hand.find("volumesTable")
    combo = hand.until(lambda: table.cellWidget(0, SEGMENTATION))
    hand.until(lambda: combo.currentText == drawn.GetName())
    assert combo.view().minimumWidth >= combo.view().sizeHintForColumn(0)  # all of each name, to choose by
    assert drawn.GetName() in combo.toolTip and long in table.item(1, NAME).toolTip()
    ball(host.scene, "third")
    hand.until(lambda: len(hand.rows("volumesTable")) == 3 and hand.rows("volumesTable")[2][KIND])
    assert table.columnWidth(NAME) == 150 and table.columnWidth(SEGMENTATION) < 200
    assert table.horizontalHeaderItem(SIZE).text() == "Size\n[voxels]"
    table.setColumnWidth(NAME, 90)
    hand.click("allButton")
    assert table.columnWidth(NAME) == 90


def test_all_rows_are_seen_in_a_narrow_panel(hand, host, volumes):
    table = hand.find("volumesTable")
    assert table.isColumnHidden(SEGMENTATION), "there is none to choose"
    made.segmentation(host.scene, volumes[0], {"liver": np.ones((32, 32, 32), bool)}, "drawn")
    hand.until(lambda: not table.isColumnHidden(SEGMENTATION), 5)
    for number in range(5):
        ball(host.scene, f"volume {number}")
    hand.until(lambda: len(hand.rows("volumesTable")) == 7 and hand.rows("volumesTable")[6][KIND], 10)
    table.setFixedWidth(220)
    hand.settle()
    assert table.horizontalScrollBar().isVisible() and not table.verticalScrollBar().isVisible()


def test_boxes_are_kept_in_the_parameter_node(hand, volumes):
    hand.checkRow("volumesTable", 1)
    assert chosen(hand) == [volumes[1].GetID()]
    assert hand.find("countLabel").text == "1 of 2 chosen"
    hand.click("allButton")
    assert chosen(hand) == [one.GetID() for one in volumes]
    hand.click("noneButton")
    assert chosen(hand) == []


def test_what_cannot_be_used_cannot_be_chosen(hand, host, volumes):
    made.volume(host.scene, made.noise((1, 40, 40)), "flat")
    hand.until(lambda: [row for row in hand.rows("volumesTable") if "not 3D" in row[NOTES]])
    hand.click("allButton")
    assert chosen(hand) == [one.GetID() for one in volumes]


def test_a_segmentation_is_suggested_by_name_and_can_be_chosen_by_hand(hand, host, volumes):
    mask = np.zeros((32, 32, 32), bool)
    mask[8:24, 8:24, 8:24] = True
    first = made.segmentation(host.scene, volumes[0], {"liver": mask}, "liver 1 segmentation")
    other = made.segmentation(host.scene, volumes[1], {"liver": mask}, "drawn twice")
    table = hand.find("volumesTable")
    combo = hand.until(
        lambda: table.cellWidget(0, SEGMENTATION).count == 3 and table.cellWidget(0, SEGMENTATION), 5
    )
    assert combo.currentText == "liver 1 segmentation"
    hand.checkRow("volumesTable", 0)
    kept = readCases(hand.panel.parameters.parameterNode)[volumes[0].GetID()]
    assert (kept.segmentationId, kept.byHand) == (first.GetID(), False)
    hand.choose(combo, "drawn twice")
    kept = readCases(hand.panel.parameters.parameterNode)[volumes[0].GetID()]
    assert (kept.segmentationId, kept.byHand) == (other.GetID(), True)
    host.scene.RemoveNode(other)
    hand.until(lambda: table.cellWidget(0, SEGMENTATION).currentText == "liver 1 segmentation")


def test_a_segmentation_drawn_after_its_volume_was_checked_is_kept(hand, host, voco, volumes):
    hand.checkRow("volumesTable", 0)
    voco.openSection("finetuning")
    tuning = Hand(voco.panel("finetuning").widget, host)
    tuning.until(lambda: "liver 1 has no segmentation" in tuning.find("problemLabel").text)
    mask = np.zeros((32, 32, 32), bool)
    mask[8:24, 8:24, 8:24] = True
    drawn = made.segmentation(host.scene, volumes[0], {"liver": mask}, "liver 1 segmentation")
    tuning.until(lambda: tuning.find("casesLabel").text == "1 case; labels: liver")
    assert tuning.find("startButton").isEnabled()
    kept = readCases(hand.panel.parameters.parameterNode)
    assert list(kept) == [one.GetID() for one in volumes]
    assert kept[volumes[0].GetID()].segmentationId == drawn.GetID()


def test_columns_that_say_nothing_are_hidden_and_the_table_is_as_high_as_its_rows(hand, host, volumes, voco):
    table = hand.find("volumesTable")
    before = table.minimumHeight
    assert table.isColumnHidden(CLASS) and table.isColumnHidden(NOTES)
    for number in range(12):
        made.volume(host.scene, made.noise((32, 32, 32)), f"more {number}")
    hand.until(lambda: len(hand.rows("volumesTable")) > 12, 60)
    ten = 10 * table.rowHeight(0)
    assert table.minimumHeight > before and ten < table.minimumHeight < ten + 60
    made.volume(host.scene, made.noise((32, 32, 1)), "flat")
    hand.until(lambda: not table.isColumnHidden(NOTES), 60)
    tuning = Hand(voco.panel("finetuning").widget, host)
    tuning.settle()
    tuning.choose("setting.task", "classification")
    hand.until(lambda: not table.isColumnHidden(CLASS), 60)


def test_a_class_is_typed_into_its_column(hand, volumes):
    hand.find("volumesTable").item(0, CLASS).setText("sick ")
    hand.settle()
    assert readCases(hand.panel.parameters.parameterNode)[volumes[0].GetID()].classLabel == "sick"


def test_renamed_and_deleted_volumes_are_followed(hand, host, volumes):
    hand.click("allButton")
    volumes[0].SetName("spleen")
    hand.until(lambda: hand.rows("volumesTable")[0][NAME] == "spleen")
    host.scene.RemoveNode(volumes[1])
    hand.until(lambda: len(hand.rows("volumesTable")) == 1)
    assert chosen(hand) == [volumes[0].GetID()]


def test_nothing_looks_at_the_scene_while_the_module_is_left(hand, host):
    host.exit("VoCoSlicer")
    ball(host.scene, "later")
    end = time.monotonic() + 0.6
    hand.until(lambda: time.monotonic() > end)
    assert len(hand.rows("volumesTable")) == 2
    host.enter("VoCoSlicer")
    hand.settle()
    assert len(hand.rows("volumesTable")) == 3


def cohort(folder):
    """Two images on disk, one of them too small for any grid."""
    from VoCoSlicerLib.nrrd import writeNrrd

    folder.mkdir()
    for name, edge in (("a", 32), ("b", 3)):
        writeNrrd(folder / f"{name}.nrrd", made.noise((edge,) * 3), np.eye(4))
    return folder


def test_a_folder_stays_on_disk_and_is_listed_and_checked(hand, host, tmp_path, monkeypatch):
    folder = cohort(tmp_path / "köhort 1")
    read = Path.read_bytes
    lists = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: lists.append(path) or read(path))
    host.answers.give(str(folder))
    hand.click("addFolderButton")
    row = hand.until(lambda: hand.rows("volumesTable")[2][NOTES] and hand.rows("volumesTable")[2], 60)
    assert row[:2] == ["köhort 1", "2 cases"] and row[KIND] == "folder"
    assert "1 of 2 cases cannot be used" in row[NOTES]
    (kept,) = readFolders(hand.panel.parameters)
    listed = json.loads(Path(kept.index).read_text(encoding="utf-8"))["cases"]
    assert kept.chosen and kept.cases == 2 and len(listed) == 2
    assert Path(kept.index) not in lists, "a long one would hold the window"
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    for line, enabled in ((0, False), (2, True)):
        hand.selectRow("volumesTable", line)
        assert hand.find("removeFolderButton").isEnabled() == enabled
    hand.click("removeFolderButton")
    assert not hand.find("removeFolderButton").isEnabled()
    assert len(hand.rows("volumesTable")) == 2 and (folder / "a.nrrd").is_file()
    assert sys.modules.get("torch") is None


def test_a_folder_that_is_no_cohort_is_said_in_the_place_for_errors(hand, voco, host, tmp_path):
    (tmp_path / "empty").mkdir()
    host.answers.give(str(tmp_path / "empty"))
    hand.click("addFolderButton")
    hand.until(lambda: voco.ui.errorFrame.isVisible(), 60)
    assert "empty" in voco.ui.errorLabel.text and voco.ui.hintLabel.text
    assert not readFolders(hand.panel.parameters)[0].chosen


def test_the_check_puts_what_it_finds_into_the_rows(hand, voco, host):
    ball(host.scene, "small", edge=8)
    hand.until(
        lambda: len(hand.rows("volumesTable")) == 3 and all(r[KIND] for r in hand.rows("volumesTable")), 5
    )
    hand.click("allButton")
    hand.click("checkButton")
    assert hand.find("cancelButton").isEnabled()
    notes = hand.until(
        lambda: all(r[NOTES] for r in hand.rows("volumesTable")) and hand.rows("volumesTable"), 60
    )
    assert notes[0][NOTES] == "checked: nothing found" and "8" in notes[2][NOTES]
    hand.until(lambda: not hand.find("cancelButton").isEnabled())
    assert not voco.section("pretraining").collapsed


class PlayedCheck:
    """A check that ends when it is told to, and finds one fault in its first case."""

    log = ""

    def __init__(self, logic, cases=(), index=None):
        self.names = [f"case {len(self.made)}{number}" for number in range(len(cases))]
        self.checked = len(self.names)
        self.found = [SimpleNamespace(case=self.names[0], severity="error", message=self.names[0], hint="")]
        self.ended = False
        self.made.append(self)

    def start(self):
        return self

    def cancel(self):
        pass

    def poll(self):
        return Progress("checking", finished=self.ended)


@pytest.fixture
def checks(hand, monkeypatch):
    """The checks that are asked for from now on, played."""
    monkeypatch.setattr(PlayedCheck, "made", [], raising=False)
    monkeypatch.setattr("VoCoSlicerLib.panels.volumes.CheckJob", PlayedCheck)
    return PlayedCheck.made


def notes(hand):
    return [row[NOTES] for row in hand.rows("volumesTable")]


def test_each_check_tells_of_its_own_volumes(hand, checks):
    hand.checkRow("volumesTable", 0)
    hand.click("checkButton")
    hand.click("allButton")
    hand.click("checkButton")
    checks[0].ended = True
    hand.until(lambda: any(notes(hand)))
    assert notes(hand) == ["case 00", ""]
    checks[1].ended = True
    hand.until(lambda: all(notes(hand)))
    assert notes(hand) == ["case 10", "checked: nothing found"]


def test_a_note_goes_with_the_image_that_was_checked(hand, checks, host, volumes):
    hand.click("allButton")
    hand.click("checkButton")
    checks[0].ended = True
    hand.until(lambda: all(notes(hand)))
    volumes[1].SetName("renamed")
    hand.until(lambda: hand.rows("volumesTable")[1][NAME] == "renamed")
    assert notes(hand) == ["case 00", "checked: nothing found"]
    volumes[1].SetAndObserveImageData(made.imageOf(made.noise((32, 32, 32))))
    hand.until(lambda: notes(hand) == ["case 00", ""])
    ids = [one.GetID() for one in volumes]
    host.closeScene()
    assert ids == [ball(host.scene, name).GetID() for name in ("liver 1", "liver 2")]  # they come back
    hand.until(lambda: [row[KIND] for row in hand.rows("volumesTable")] == ["CT", "CT"])
    assert notes(hand) == ["", ""]


def test_a_check_can_be_cancelled_and_needs_something_to_check(hand, voco):
    hand.click("checkButton")
    assert "no volume is chosen" in voco.ui.errorLabel.text
    hand.click("allButton")
    hand.click("checkButton")
    hand.click("cancelButton")
    assert not hand.find("workLabel").isVisible() and not hand.find("cancelButton").isEnabled()


def test_many_rows_are_made_a_few_at_a_time_and_filled_where_they_are_others(hand, voco, host, monkeypatch):
    nodes = [made.volume(host.scene, made.noise((6, 16, 16)), f"case {number}") for number in range(50)]
    made.segmentation(host.scene, nodes[0], {}, "drawn")
    panel, table = voco.panel("volumes"), hand.find("volumesTable")
    panel.refresh()
    assert table.rowCount >= 50 and table.item(45, 0) is None
    table.selectRow(45)  # there is nothing yet to be selected
    hand.until(lambda: table.item(table.rowCount - 1, 0) is not None)
    names = [line[0] for line in hand.rows("volumesTable")]
    assert names[-50:] == [node.GetName() for node in nodes]
    hand.until(lambda: panel.refresh() or all(line[KIND] for line in hand.rows("volumesTable")))
    from VoCoSlicerLib import adapter

    filled, real = [], adapter.plainTip
    monkeypatch.setattr(adapter, "plainTip", lambda text: filled.append(text) or real(text))
    nodes[7].SetName("renamed")
    panel.refresh()
    assert hand.rows("volumesTable")[names.index("case 7")][0] == "renamed"
    assert 0 < len(filled) < 10  # the cells of one row
    hand.checkRow("volumesTable", names.index("case 8"))
    assert readCases(panel.parameters.parameterNode)[nodes[8].GetID()].chosen
