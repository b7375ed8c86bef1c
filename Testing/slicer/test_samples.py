"""The sample cases: they load with their organs, and Slicer's Sample Data is told all that it needs."""

from __future__ import annotations

import hashlib
import re
import sys
from types import SimpleNamespace
from urllib.request import urlretrieve

import numpy as np
import pytest
import slicer
import vtk
from host import sampledata

from VoCoCore.data.phantom import make_case
from VoCoCore.data.phantom_shapes import LABELS
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoSlicerLib import samples
from VoCoSlicerLib.volumes import describeVolume, suggestSegmentation


def matrixOf(volume) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def test_the_large_case_is_the_phantom_that_it_says_it_is(scene):
    ((volume, segmentation),) = samples.loadSample(scene, "VoCoTorso")
    case = make_case(2024, 0)
    assert np.array_equal(slicer.util.arrayFromVolume(volume).T, case.image)
    assert np.allclose(matrixOf(volume), case.affine, atol=1e-6)
    found = segmentation.GetSegmentation()
    names = [found.GetNthSegment(number).GetName() for number in range(found.GetNumberOfSegments())]
    assert names == [name for name, value in LABELS.items() if value]
    assert suggestSegmentation(scene, volume) is segmentation


def test_the_small_cases_are_usable_ct_volumes_of_their_own(scene):
    pairs = samples.loadSample(scene, "VoCoTorsos")
    rows = [describeVolume(volume) for volume, _ in pairs]
    assert [row.name for row in rows] == [f"VoCoTorso{number}" for number in range(1, 7)]
    assert all(row.usable and row.modality == "CT" for row in rows)
    assert [suggestSegmentation(scene, volume) for volume, _ in pairs] == [drawn for _, drawn in pairs]
    assert len({slicer.util.arrayFromVolume(volume).tobytes() for volume, _ in pairs}) == 6


@pytest.fixture
def registered(monkeypatch):
    """What Slicer's module Sample Data was told, by sample."""
    module = sampledata.makeModule()
    monkeypatch.setitem(sys.modules, "SampleData", module)
    samples.registerSamples()
    return {facts["sampleName"]: facts for facts in module.SampleDataLogic.sources}


def test_sample_data_finds_the_files_by_address_and_checksum(registered, tmp_path):
    assert registered.keys() == {*samples.SAMPLES, samples.PUBLIC}
    public = registered[samples.PUBLIC]
    for facts in registered.values():
        lists = [facts[name] for name in ("uris", "fileNames", "nodeNames", "checksums", "loadFileTypes")]
        assert len({len(each) for each in lists}) == 1 and facts["category"] == "VoCo"
        for uri, name, _, checksum, kind in zip(*lists, strict=True):
            if facts is public:  # on the network: published under its hash
                assert uri == f"{slicer.util.TESTING_DATA_URL}{checksum.replace(':', '/')}"
                assert re.fullmatch("SHA256:[0-9a-f]{64}", checksum) and kind == "VolumeFile"
                continue
            copied, _ = urlretrieve(uri, tmp_path / name)
            content = (tmp_path / name).read_bytes()
            assert checksum == "SHA256:" + hashlib.sha256(content).hexdigest(), copied
            assert kind == ("SegmentationFile" if ".seg." in name else "VolumeFile")
    names = [name for facts in registered.values() for name in facts["fileNames"]]
    assert len(names) == len(set(names)), "they share one cache"


def test_a_sample_that_is_pressed_is_loaded_and_its_first_case_shown(registered, scene, monkeypatch):
    shown = []
    monkeypatch.setattr(slicer, "mrmlScene", scene)
    monkeypatch.setattr(
        slicer.util, "setSliceViewerLayers", lambda **layers: shown.append(layers), raising=False
    )
    registered["VoCoTorsos"]["customDownloader"](SimpleNamespace(sampleName="VoCoTorsos"))
    drawn = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert [bool(node.GetDisplayVisibility()) for node in drawn] == [True] + 5 * [False]
    assert shown == [{"background": slicer.util.getFirstNodeByName("VoCoTorso1"), "fit": True}]


def test_what_is_not_there_is_said(scene, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no sample 'Torso'"):
        samples.loadSample(scene, "Torso")
    monkeypatch.setattr(samples, "FOLDER", tmp_path)
    with pytest.raises(EnvironmentFault, match=r"VoCoTorso\.nrrd is missing"):
        samples.loadSample(scene, "VoCoTorso")
    for ending in (".nrrd", ".seg.nrrd"):
        (tmp_path / f"VoCoTorso{ending}").write_bytes(b"NRRD0004\nnonsense")
    with pytest.raises(DataError, match="cannot be read"):
        samples.loadSample(scene, "VoCoTorso")
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


@pytest.mark.parametrize("absent", ["module", "files"])
def test_samples_that_cannot_be_offered_are_a_line_in_the_log(absent, monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "SampleData", None if absent == "module" else SimpleNamespace())
    monkeypatch.setattr(samples, "FOLDER", tmp_path if absent == "files" else samples.FOLDER)
    samples.registerSamples()
    ((_, _, line),) = caplog.record_tuples
    assert line.startswith("VoCo: the samples are not offered: ") and "\n" not in line
