"""A real MRML scene as Slicer has it when it has just started: application logic, module logics, three slice views."""

from __future__ import annotations

import tempfile
import types

SLICE_VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}

# in the order in which Slicer loads the modules: what needs another comes later
LOGICS = {
    "Units": "vtkSlicerUnitsLogic",
    "Colors": "vtkMRMLColorLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Annotations": "vtkSlicerAnnotationModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
}


class SceneSetup:
    """Makes the scene and what watches it, puts it into ``slicer.mrmlScene``, and takes all of it away again."""

    def __init__(self, cacheFolder: str = "", views: bool = True) -> None:
        import slicer
        import vtk

        self.scene = slicer.vtkMRMLScene()
        # Where relative names of files begin: a user's documents, which need not be there, not the current folder.
        self.scene.SetRootDirectory(f"{cacheFolder or tempfile.gettempdir()}/no documents")
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        self.applicationLogic.SetMRMLScene(self.scene)
        self.logics = {name: getattr(slicer, kind)() for name, kind in LOGICS.items()}
        for name, logic in self.logics.items():
            logic.SetMRMLApplicationLogic(self.applicationLogic)
            logic.SetMRMLScene(self.scene)
            self.applicationLogic.SetModuleLogic(name, logic)
        self.remote = slicer.vtkMRMLRemoteIOLogic()  # bundles (.mrb) are unpacked into its cache
        self.remote.SetMRMLScene(self.scene)
        self.remote.GetCacheManager().SetRemoteCacheDirectory(
            cacheFolder or tempfile.mkdtemp(prefix="scene-")
        )
        self.remote.AddDataIOToScene()
        self.layoutLogic = slicer.vtkMRMLLayoutLogic()
        if views:  # they and their layout come with the layout manager, and that with the main window
            self.layoutLogic.SetMRMLScene(self.scene)
        self.sliceLogics = {}
        self._sliceCollection = vtk.vtkCollection()
        self.applicationLogic.SetSliceLogics(self._sliceCollection)
        self._singletons(slicer)
        if views:
            self._views(slicer)
        slicer.mrmlScene = self.scene
        self.scene.GetSubjectHierarchyNode()

    def _singletons(self, slicer) -> None:
        for kind in ("Selection", "Interaction"):
            node = getattr(slicer, f"vtkMRML{kind}Node")()
            node.SetSingletonTag("Singleton")
            if self.scene.GetSingletonNode("Singleton", node.GetClassName()) is None:
                self.scene.AddNode(node)

    def _views(self, slicer) -> None:
        for name, orientation in SLICE_VIEWS.items():
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.applicationLogic)
            logic.SetMRMLScene(self.scene)
            node = self.scene.GetSingletonNode(name, "vtkMRMLSliceNode")  # the layout has made it
            logic.SetSliceNode(node) if node is not None else logic.AddSliceNode(name)
            logic.GetSliceNode().SetOrientation(orientation)
            self._sliceCollection.AddItem(logic)
            self.sliceLogics[name] = logic

    def close(self) -> None:
        """Empty the scene and let everything go."""
        import slicer

        self.scene.Clear(False)
        for logic in (*self.sliceLogics.values(), self.layoutLogic, *self.logics.values()):
            logic.SetMRMLScene(None)
        self._sliceCollection.RemoveAllItems()
        self.remote.RemoveDataIOFromScene()
        self.remote.SetMRMLScene(None)
        self.applicationLogic.SetMRMLScene(None)
        if getattr(slicer, "mrmlScene", None) is self.scene:
            slicer.mrmlScene = None


def i18n():
    """The module `slicer.i18n`, in English; Slicer's own is free of Qt too, so that all parts may use it."""
    module = types.ModuleType("slicer.i18n")
    module.tr = lambda text: text
    module.translate = lambda context, text: text
    return module
