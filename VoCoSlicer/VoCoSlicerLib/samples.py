"""The sample cases: synthetic torsos that come with the module, and real CTs that Slicer's own project publishes.

``VoCoTorso`` is one case to look at, ``VoCoTorsos`` are six small ones to train with, all with their organs drawn and
nobody's data (CC0). They lie in Resources/SampleData: nothing is downloaded. ``VoCoPublicCTs`` are three scans without
labels, to pre-train on; Slicer downloads them when they are pressed, and checks their SHA-256.
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
# Volumes among Slicer's testing data by the names that Slicer's own samples have, so that its cache serves both: file
# name, and SHA-256, under which they are published.
PUBLIC = "VoCoPublicCTs"
PUBLIC_FILES = {
    "CTChest": ("CT-chest.nrrd", "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"),
    "CTLiver": ("CTLiver.nrrd", "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e"),
    "CTACardio": ("CTA-cardio.nrrd", "3b0d4eb1a7d8ebb0c5a89cc0504640f76a030b4e869e33ff34c564c3d3b88ad2"),
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
    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    shared = {
        "category": CATEGORY,
        "thumbnailFileName": str(MODULE_FOLDER / "Resources" / "Icons" / "VoCoSlicer.png"),
    }
    for name, paths in found.items():
        register(
            sampleName=name,
            customDownloader=showSample,
            uris=[path.as_uri() for path in paths],
            fileNames=[path.name for path in paths],
            nodeNames=[nodeName(path) for path in paths],
            # A file of an earlier version in Slicer's cache is thus replaced.
            checksums=[f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths],
            loadFileTypes=["SegmentationFile" if isSegmentation(path) else "VolumeFile" for path in paths],
            **shared,
        )
    names, hashes = zip(*PUBLIC_FILES.values(), strict=True)
    register(
        sampleName=PUBLIC,
        uris=[f"{slicer.util.TESTING_DATA_URL}SHA256/{each}" for each in hashes],
        fileNames=list(names),
        nodeNames=list(PUBLIC_FILES),
        checksums=[f"SHA256:{each}" for each in hashes],
        loadFileTypes=["VolumeFile"] * len(names),
        **shared,
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
