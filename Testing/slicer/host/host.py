"""The host itself: puts the modules in place, loads modules as Slicer's factory does, and takes all away again."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import types
from pathlib import Path

from .scene import SceneSetup, i18n

OURS = (
    "qt",
    "ctk",
    "slicer.ScriptedLoadableModule",
    "slicer.parameterNodeWrapper",
    "slicer.i18n",
    "SampleData",
)


class Host:
    """One session of the application, from start to end; attributes ``app``, ``scene``, ``answers``, ``failures``."""

    def __init__(self, folder: Path | None = None, mainWindow: bool = True) -> None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        from . import application, ctkmodule, qtmodule, sampledata, scripted
        from .answers import ANSWERS
        from .failures import FAILURES
        from .mainwindow import HostMainWindow

        self.answers, self.failures = ANSWERS, FAILURES
        self.folder = Path(folder) if folder else application.temporaryFolder()
        self._ownFolder = folder is None
        self._closed = False
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._qt = qtmodule.shared()
        self._application = self._qt.QApplication.instance() or self._qt.QApplication(["Slicer"])
        FAILURES.install()
        application.makeSettings(self.folder)
        self.setup = SceneSetup(str(self.folder / "tmp"), views=mainWindow)
        self.scene = self.setup.scene
        self.app = application.HostApplication(self.setup, self.folder, mainWindow)
        if not gc.get_freeze_count():
            gc.freeze()  # what is imported stays: collecting garbage after each test is quick then
        self._modules: dict[str, object] = {}
        self._attributes: list[str] = []
        layoutNode = self.setup.layoutLogic.GetLayoutNode()
        self.window = HostMainWindow(self.app.moduleManager(), layoutNode) if mainWindow else None
        self._place(
            {
                "qt": self._qt,
                "ctk": ctkmodule.make(),
                "slicer.ScriptedLoadableModule": scripted.makeModule(),
                "slicer.i18n": i18n(),
                "SampleData": sampledata.makeModule(),
            }
        )

    def _place(self, modules: dict) -> None:
        import slicer

        from . import mrml_widgets, parameters
        from .modules import HostModule, HostModuleWidget

        sys.modules.update(modules)
        sys.modules["slicer.parameterNodeWrapper"] = parameters.makeModule()
        placed = {
            "app": self.app,
            "modules": types.SimpleNamespace(),
            "i18n": modules["slicer.i18n"],
            "parameterNodeWrapper": sys.modules["slicer.parameterNodeWrapper"],
            "qMRMLWidget": mrml_widgets.qMRMLWidget,
            "qMRMLNodeComboBox": mrml_widgets.qMRMLNodeComboBox,
            "qMRMLCheckableNodeComboBox": mrml_widgets.qMRMLCheckableNodeComboBox,
            "qSlicerScriptedLoadableModule": HostModule,
            "qSlicerScriptedLoadableModuleWidget": HostModuleWidget,
            "selfTests": {},
        }
        for name, logic in self.setup.logics.items():
            setattr(placed["modules"], name.lower(), HostModule(name, "", logic))
        for name, value in placed.items():
            setattr(slicer, name, value)
            self._attributes.append(name)

    def loadModule(self, path: str | Path):
        """Load a scripted module from its file; returns its widget (the Python object), set up but not entered."""
        import slicer

        from .modules import HostModule

        path = Path(path).resolve()
        name = path.stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        source = importlib.util.module_from_spec(spec)
        sys.modules[name] = source
        spec.loader.exec_module(source)
        module = HostModule(name, str(path), None)
        module.instance = getattr(source, name)(module)
        setattr(slicer.modules, name.lower(), module)
        setattr(slicer.modules, f"{name}Instance", module.instance)
        self.app.moduleManager()._hostModules[name] = module
        self._modules[name] = module
        return module.widgetRepresentation().self()

    def enter(self, name: str) -> None:
        """The user comes to the module."""
        if self.window is not None:
            self.window.moduleSelector().selectModule(name)
        else:
            self._modules[name].widgetRepresentation().enter()

    def exit(self, name: str) -> None:
        """The user goes to another module."""
        if self.window is not None:
            self.window.moduleSelector().selectModule("Data")
        else:
            self._modules[name].widgetRepresentation().exit()

    def reload(self, name: str):
        """As the Reload button of developers' mode; returns the new widget."""
        self._modules[name].widgetRepresentation().self().onReload()
        return self._modules[name].widgetRepresentation().self()

    def closeScene(self) -> None:
        """File, Close Scene."""
        self.scene.Clear(False)
        self.app.processEvents()

    def close(self) -> None:
        """End the session: unload the modules, empty the scene, take the host's modules away. Once is enough."""
        import slicer

        if self._closed:
            return
        self._closed = True
        for name, module in self._modules.items():
            if module.widgetRepresentation().isEntered:
                self.exit(name)
            type(self.app.moduleManager()).moduleAboutToBeUnloaded.emit(self.app.moduleManager(), name)
            module.deleteWidgets()
            forget(name)
        type(self.app).aboutToQuit.emit(self.app)
        self.window = None
        for window in self._qt.QApplication.topLevelWidgets():
            window.close()
            window.deleteLater()
        self._settle()
        self.setup.close()
        from .parameters import HELD

        HELD.clear()
        for name in self._attributes:
            if hasattr(slicer, name):
                delattr(slicer, name)
        for name in OURS:
            sys.modules.pop(name, None)
        self.failures.uninstall()
        if self._ownFolder:
            from .application import removeFolder

            removeFolder(self.folder)

    def _settle(self) -> None:
        for _ in range(3):
            self._qt.QApplication.sendPostedEvents(None, self._qt.QEvent.DeferredDelete)
            self._qt.QApplication.processEvents()
        gc.collect()


def forget(name: str) -> None:
    """Take a module and its library (nameLib) out of ``sys.modules``."""
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in (name, f"{name}Lib"):
            del sys.modules[loaded]
