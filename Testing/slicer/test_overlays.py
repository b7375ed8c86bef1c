"""Probabilities over the volumes in the slice views: which view gets which, what stays, the control for it."""

from __future__ import annotations

import made_scene as made
import numpy as np
import pytest
from hand import Hand
from preview_scene import addView, composites, countObservers
from test_results import exportOf, predicted, probabilityFile

from VoCoSlicerLib.overlays import belongsTo, overlayLabels, shownOverlay, showOverlay
from VoCoSlicerLib.preview_layers import SliceLayers
from VoCoSlicerLib.results import addProbabilityVolume
from VoCoSlicerLib.results_load import loadPredictions
from VoCoSlicerLib.results_read import Probability


def image(scene, name):
    return made.volume(scene, made.noise((16, 16, 16)), name)


def probability(scene, volume, label):
    values = Probability(label, np.full((16, 16, 16), 0.5, np.float32), np.eye(4))
    return addProbabilityVolume(scene, values, volume, {})


def foregrounds(views):
    return [view.GetForegroundVolumeID() for view in views]


@pytest.fixture
def cases(scene):
    """Two volumes with probabilities of two labels, and a view of each."""
    volumes = [image(scene, name) for name in ("one", "two")]
    maps = {each: [probability(scene, each, label) for label in ("liver", "spleen")] for each in volumes}
    views = [addView(scene, name) for name in ("Red", "Green")]
    for view, volume in zip(views, volumes, strict=True):
        view.SetBackgroundVolumeID(volume.GetID())
    return volumes, maps, views


def test_each_view_shows_the_label_over_its_own_volume(scene, cases):
    volumes, maps, views = cases
    assert overlayLabels(scene) == ["liver", "spleen"] and shownOverlay(scene) == ""
    showOverlay(scene, "spleen")
    assert foregrounds(views) == [maps[each][1].GetID() for each in volumes]
    assert views[0].GetForegroundOpacity() == 0.5 and shownOverlay(scene) == "spleen"
    views[0].SetForegroundOpacity(0.8)
    latest = probability(scene, volumes[0], "liver")
    showOverlay(scene, "liver")
    assert foregrounds(views) == [latest.GetID(), maps[volumes[1]][0].GetID()]
    assert views[0].GetForegroundOpacity() == 0.8  # as the user has set it
    showOverlay(scene, "")
    assert foregrounds(views) == [None, None] and views[0].GetForegroundOpacity() == 0


def test_overlays_of_others_stay(scene, cases):
    volumes, _, views = cases
    pet, plain = image(scene, "pet"), image(scene, "not predicted")
    views[1].SetBackgroundVolumeID(plain.GetID())
    views[1].SetForegroundVolumeID(pet.GetID())
    showOverlay(scene, "liver")
    assert foregrounds(views)[1] == pet.GetID() and shownOverlay(scene) == "liver"
    showOverlay(scene, "")
    assert foregrounds(views) == [None, pet.GetID()]
    assert [view.GetBackgroundVolumeID() for view in views] == [volumes[0].GetID(), plain.GetID()]


def test_an_overlay_that_ours_covers_comes_back(scene, cases):
    _, _, views = cases
    pet = image(scene, "pet")
    views[0].SetForegroundVolumeID(pet.GetID())
    views[0].SetForegroundOpacity(0.3)
    for label in ("liver", "spleen", ""):
        showOverlay(scene, label)
        assert (views[0].GetForegroundVolumeID() == pet.GetID()) == (label == "")
    assert views[0].GetForegroundOpacity() == 0.3 and foregrounds(views)[1] is None

    showOverlay(scene, "liver")
    other = image(scene, "what the user puts in its place")
    views[0].SetForegroundVolumeID(other.GetID())
    showOverlay(scene, "")
    assert foregrounds(views) == [other.GetID(), None]

    showOverlay(scene, "liver")
    scene.RemoveNode(other)
    showOverlay(scene, "")
    assert foregrounds(views) == [None, None] and views[0].GetForegroundOpacity() == 0


def test_a_volume_that_no_view_shows_comes_into_them(scene, cases):
    volumes, maps, views = cases
    other = image(scene, "other")
    for view in views:
        view.SetBackgroundVolumeID(other.GetID())
    showOverlay(scene, "liver", bring=False)
    assert foregrounds(views) == [None, None]
    showOverlay(scene, "liver")
    assert [view.GetBackgroundVolumeID() for view in views] == [volumes[1].GetID()] * 2
    assert foregrounds(views) == [maps[volumes[1]][0].GetID()] * 2


def test_what_is_gone_is_not_offered(scene, cases):
    volumes, maps, views = cases
    showOverlay(scene, "spleen")
    for each in volumes:
        scene.RemoveNode(maps[each][1])
    assert overlayLabels(scene) == ["liver"] and shownOverlay(scene) == ""
    showOverlay(scene, "spleen")
    assert foregrounds(views) == [None, None]
    for each in volumes:
        scene.RemoveNode(each)
    assert overlayLabels(scene) == []
    showOverlay(scene, "liver")


def test_any_channel_of_a_case_has_its_overlay(scene, tmp_path):
    node = made.volume(scene, made.noise())
    second = made.volume(scene, made.noise(), "flair")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    probabilityFile(tmp_path / "out", np.eye(4))
    byId = {name: (*((ids,) if isinstance(ids, str) else ids), second.GetID()) for name, ids in byId.items()}
    loadPredictions(scene, predicted(tmp_path / "out", index), byId, probabilities=True, show3d=False)
    view = addView(scene, "Red")
    view.SetBackgroundVolumeID(second.GetID())
    showOverlay(scene, "liver")
    assert "liver probability" in scene.GetNodeByID(view.GetForegroundVolumeID()).GetName()


@pytest.fixture
def hand(voco, host):
    voco.openSection("prediction")
    made_hand = Hand(voco.panel("prediction").widget, host)
    made_hand.settle()
    return made_hand


@pytest.fixture
def shown(voco, host, hand):
    """Two volumes with probabilities, the first of them in all views."""
    volumes = [image(host.scene, name) for name in ("one", "two")]
    assert not hand.find("overlayCombo").isEnabled() and "Probabilities" in hand.find("overlayCombo").toolTip
    maps = [probability(host.scene, each, "liver") for each in volumes]
    voco.panel("prediction").enter()
    for view in composites(host.scene):
        view.SetBackgroundVolumeID(volumes[0].GetID())
        view.SetForegroundVolumeID(None)
    return volumes, maps, composites(host.scene)


def test_a_label_is_chosen_and_follows_the_volumes_of_the_views(hand, host, shown):
    volumes, maps, views = shown
    hand.choose("overlayCombo", "liver")
    assert foregrounds(views) == [maps[0].GetID()] * 3
    views[0].SetBackgroundVolumeID(volumes[1].GetID())
    assert foregrounds(views) == [maps[1].GetID(), maps[0].GetID(), maps[0].GetID()]
    for view in views:
        view.SetBackgroundVolumeID(image(host.scene, "other").GetID())
    assert foregrounds(views) == [None] * 3 and hand.find("overlayCombo").currentText == "liver"
    views[2].SetBackgroundVolumeID(volumes[1].GetID())
    assert foregrounds(views) == [None, None, maps[1].GetID()]
    hand.choose("overlayCombo", "none")
    assert foregrounds(views) == [None] * 3


def test_an_overlay_that_ours_covers_gives_way_again_when_a_view_comes_back(hand, host, shown):
    volumes, maps, views = shown
    pet, other = image(host.scene, "pet"), image(host.scene, "other")
    for view in views:
        view.SetForegroundVolumeID(pet.GetID())
    hand.choose("overlayCombo", "liver")
    for below, above in ((other, pet), (volumes[0], maps[0]), (other, pet), (volumes[1], maps[1])):
        for view in views:
            view.SetBackgroundVolumeID(below.GetID())
        assert foregrounds(views) == [above.GetID()] * 3
    hand.choose("overlayCombo", "none")
    assert foregrounds(views) == [pet.GetID()] * 3
    views[0].SetBackgroundVolumeID(volumes[0].GetID())
    assert foregrounds(views) == [pet.GetID()] * 3, "nothing of ours is chosen"


def test_the_control_tells_what_others_show(hand, shown):
    _, maps, views = shown
    hand.choose("overlayCombo", "liver")
    for view in views:
        view.SetForegroundVolumeID(None)
    assert hand.find("overlayCombo").currentText == "none"
    views[0].SetForegroundVolumeID(maps[0].GetID())
    assert hand.find("overlayCombo").currentText == "liver"


def test_what_is_shown_before_the_section_is_opened_can_be_taken_away(voco, host):
    volume, views = image(host.scene, "one"), composites(host.scene)
    node = probability(host.scene, volume, "liver")
    for view in views:
        view.SetBackgroundVolumeID(volume.GetID())
    voco.logic.showOverlay("liver")  # as a script does, and as a scene that is loaded comes
    voco.openSection("prediction")
    hand = Hand(voco.panel("prediction").widget, host)
    hand.settle()
    assert hand.find("overlayCombo").currentText == "liver" and foregrounds(views) == [node.GetID()] * 3
    hand.choose("overlayCombo", "none")
    assert foregrounds(views) == [None] * 3


def test_a_map_shown_in_one_view_leaves_the_overlays_of_others_alone(hand, host, shown):
    volumes, maps, (red, green, yellow) = shown
    pet = image(host.scene, "pet")
    yellow.SetForegroundVolumeID(pet.GetID())
    yellow.SetForegroundOpacity(0.4)
    red.SetForegroundVolumeID(maps[0].GetID())
    red.SetForegroundOpacity(0.7)
    assert hand.find("overlayCombo").currentText == "liver"
    assert foregrounds([red, green, yellow]) == [maps[0].GetID(), None, pet.GetID()]
    green.SetBackgroundVolumeID(volumes[1].GetID())
    yellow.SetBackgroundVolumeID(volumes[1].GetID())
    assert foregrounds([red, green, yellow]) == [maps[0].GetID(), maps[1].GetID(), pet.GetID()]
    hand.choose("overlayCombo", "none")
    assert foregrounds([red, green, yellow]) == [None, None, pet.GetID()]
    assert yellow.GetForegroundOpacity() == 0.4


def test_a_new_prediction_appears_under_the_label_that_is_chosen(voco, hand, host, shown):
    volumes, maps, (red, green, yellow) = shown
    plain = image(host.scene, "plain")
    yellow.SetBackgroundVolumeID(plain.GetID())
    hand.choose("overlayCombo", "liver")
    green.SetForegroundVolumeID(None)  # the user's doing
    new = probability(host.scene, plain, "liver")
    voco.panel("prediction").enter()
    assert foregrounds([red, green, yellow]) == [maps[0].GetID(), None, new.GetID()]
    latest = probability(host.scene, volumes[0], "liver")
    voco.panel("prediction").enter()
    assert foregrounds([red, green, yellow]) == [latest.GetID(), latest.GetID(), new.GetID()]


def test_the_preview_covers_an_overlay_which_comes_back(hand, host, shown):
    volumes, maps, views = shown
    hand.choose("overlayCombo", "liver")
    heat, layers = image(host.scene, "heat"), SliceLayers(host.scene)
    layers.show(volumes[1].GetID(), None, heat.GetID(), 0.5)
    assert foregrounds(views) == [heat.GetID()] * 3
    views[1].SetBackgroundVolumeID(image(host.scene, "other").GetID())
    views[2].SetForegroundOpacity(0.9)
    assert foregrounds(views) == [heat.GetID()] * 3
    layers.restore()
    assert foregrounds(views) == [maps[0].GetID(), None, maps[0].GetID()]
    assert hand.find("overlayCombo").currentText == "liver"


def test_the_preview_hides_probabilities_of_another_volume(scene, cases):
    volumes, maps, views = cases
    showOverlay(scene, "liver")
    heat, layers = image(scene, "heat"), SliceLayers(scene)
    for over in (None, heat, None):
        layers.show(volumes[0].GetID(), None, over and over.GetID(), 0.5)
        wanted = [heat.GetID()] * 2 if over else [maps[volumes[0]][0].GetID(), None]
        assert foregrounds(views) == wanted
    layers.show(volumes[1].GetID(), None, None, 0.5)
    assert foregrounds(views) == [None, maps[volumes[1]][0].GetID()]
    layers.restore()
    assert foregrounds(views) == [maps[each][0].GetID() for each in volumes]


def test_views_are_fitted_to_a_volume_that_is_brought_into_them(hand, host, shown, monkeypatch):
    volumes, _, views = shown
    fitted = []
    monkeypatch.setattr(type(host.app.layoutManager()), "resetSliceViews", lambda self: fitted.append(1))
    hand.choose("overlayCombo", "liver")
    assert not fitted  # the user's zoom stays
    for view in views:
        view.SetBackgroundVolumeID(image(host.scene, "other").GetID())
    hand.choose("overlayCombo", "none")
    hand.choose("overlayCombo", "liver")
    assert fitted == [1] and [view.GetBackgroundVolumeID() for view in views] == [volumes[1].GetID()] * 3


def test_nodes_that_are_deleted_and_closed_scenes_do_no_harm(voco, hand, host, shown):
    _, maps, views = shown
    hand.choose("overlayCombo", "liver")
    host.scene.RemoveNode(maps[0])
    host.scene.RemoveNode(maps[1])
    hand.settle()
    assert foregrounds(views) == [None] * 3 and hand.find("overlayCombo").currentText == "none"
    assert hand.find("overlayCombo").count == 1 and not hand.find("overlayCombo").isEnabled()
    host.scene.Clear(0)
    hand.settle()
    belongsTo(image(host.scene, "loose"), "liver", ())  # its volume is not there
    voco.panel("prediction").enter()
    assert not hand.find("overlayCombo").isEnabled()


def test_a_label_chosen_in_a_scene_that_is_closed_is_not_shown_in_the_next(voco, hand, host, shown):
    _, _, views = shown
    hand.choose("overlayCombo", "liver")
    other = image(host.scene, "other")
    for view in views:
        view.SetBackgroundVolumeID(other.GetID())
    host.closeScene()
    volume, views = image(host.scene, "new"), composites(host.scene)
    probability(host.scene, volume, "liver")
    for view in views:
        view.SetBackgroundVolumeID(volume.GetID())
    voco.panel("prediction").enter()
    assert foregrounds(views) == [None] * 3 and hand.find("overlayCombo").currentText == "none"


def test_the_views_are_let_go_with_the_module(voco, hand, host):
    counts = [countObservers(addView(host.scene, name)) for name in ("Compare1", "Compare2")]
    for _ in range(3):
        voco.panel("prediction").enter()
    assert [count() for count in counts] == [1, 1]
    voco.panel("prediction").cleanup()
    assert [count() for count in counts] == [0, 0]
