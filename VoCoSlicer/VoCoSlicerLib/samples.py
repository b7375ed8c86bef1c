"""The sample cases that come with the module: synthetic torsos with the organs drawn, nobody's data (CC0).

``VoCoTorso`` is one case to look at; ``VoCoTorsos`` are six small ones to train with. They lie in
Resources/SampleData, so that nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import slicer

from VoCoCore.errors import DataError, EnvironmentFault, VocoError
from VoCoSlicerLib.core import MODULE_FOLDER

FOLDER = MODULE_FOLDER / "Resources" / "SampleData"
CATEGORY = "VoCo"
SAMPLES = {
    "VoCoTorso": ("VoCoTorso",),
    "VoCoTorsos": tuple(f"VoCoTorso{number}" for number in range(1, 7)),
}


def sampleFiles(name: str) -> list[tuple[Path, Path]]:
    """The files of a sample: volume and segmentation of each case.

    Raises DataError for a name that is none, EnvironmentFault where files are missing from the installation.
    """
    if name not in SAMPLES:
        raise DataError(f"there is no sample {name!r}", f"one of {', '.join(SAMPLES)}")
    pairs = [(FOLDER / f"{case}.nrrd", FOLDER / f"{case}.seg.nrrd") for case in SAMPLES[name]]
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise EnvironmentFault(f"{missing[0]} is missing", "install the VoCo extension again")
    return pairs


def registerSamples() -> None:
    """Offer the samples in Slicer's module Sample Data; call it when Slicer's start-up is completed.

    Slicer's log says why where that cannot be: nobody has asked for them yet.
    """
    try:
        import SampleData

        found = {name: [path for pair in sampleFiles(name) for path in pair] for name in SAMPLES}
    except (ImportError, VocoError) as error:
        logging.warning("VoCo: the samples are not offered: %s", error)
        return
    for name, paths in found.items():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            customDownloader=showSample,
            uris=[path.as_uri() for path in paths],
            fileNames=[path.name for path in paths],
            nodeNames=[nodeName(path) for path in paths],
            # A file of an earlier version in Slicer's cache is thus replaced.
            checksums=[f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths],
            loadFileTypes=["SegmentationFile" if isSegmentation(path) else "VolumeFile" for path in paths],
            thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / "VoCoSlicer.png"),
        )


def showSample(source) -> None:
    """Load a sample whose picture was pressed in the module Sample Data, and look at its first case."""
    (volume, _segmentation), *_others = loadSample(slicer.mrmlScene, source.sampleName)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)


def loadSample(scene, name: str) -> list[tuple]:
    """Load a sample's cases from where they lie: [(volume node, segmentation node), ...].

    Of several cases only the first one's segmentation is shown: they lie over each other. Raises what `sampleFiles`
    does, and DataError for a file that cannot be read.
    """
    made = []
    for volumePath, segmentationPath in sampleFiles(name):
        volume = _read(scene, volumePath, "vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode")
        segmentation = _read(
            scene, segmentationPath, "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"
        )
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentation.SetDisplayVisibility(not made)
        made.append((volume, segmentation))
    return made


def isSegmentation(path: Path) -> bool:
    """Whether a sample's file is the segmentation of its case."""
    return path.name.endswith(".seg.nrrd")


def nodeName(path: Path) -> str:
    """How the node of a sample's file is called; a case's two nodes are found by each other's names."""
    return path.name.replace(".seg.nrrd", " segmentation").replace(".nrrd", "")


def _read(scene, path: Path, nodeClass: str, storageClass: str):
    node = scene.AddNewNodeByClass(nodeClass, nodeName(path))
    storage = scene.AddNewNodeByClass(storageClass)
    storage.SetFileName(str(path))
    node.SetAndObserveStorageNodeID(storage.GetID())
    if not storage.ReadData(node):
        scene.RemoveNode(storage)
        scene.RemoveNode(node)
        raise DataError(f"{path} cannot be read", "install the VoCo extension again")
    node.SetName(nodeName(path))
    node.CreateDefaultDisplayNodes()
    return node
