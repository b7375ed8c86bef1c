"""The host is at least as strict as Slicer: a test for each row of "PythonQt is not PySide", and for the stand-ins."""

import functools
import gc
import re
import sys
import threading
from typing import Annotated

import numpy as np
import pytest
import slicer
from conftest import MODULE, ROOT


@pytest.fixture
def qt(host):
    return sys.modules["qt"]


# The table, row by row


def test_a_property_is_a_value_and_its_getter_is_gone(qt):
    label = qt.QLabel("one")
    assert label.text == "one"
    with pytest.raises(TypeError):
        label.text()
    label.text = "two"
    assert label.property("text") == "two"
    label.setText("three")
    assert label.text == "three"
    assert qt.QTableWidget(2, 3).rowCount == 2 and qt.QComboBox().count == 0
    with pytest.raises(TypeError):
        label.text = 4
    with pytest.raises(AttributeError, match="cannot be written"):
        qt.QTableWidget(2, 3).width = 7  # a property without a setter


def test_objects_that_qt_made_are_as_strict(qt):
    header = qt.QTableWidget(2, 3).horizontalHeader()
    with pytest.raises(AttributeError):
        header.hidden_ = True
    assert qt.QTableWidget(2, 3).horizontalHeader().defaultSectionSize > 0


def test_properties_that_qt5_does_not_have_are_refused(qt):
    with pytest.raises(AttributeError, match="not a property"):
        _ = qt.QVBoxLayout().contentsMargins


@pytest.mark.parametrize("name", ["QLabel", "QVBoxLayout", "QTimer", "QComboBox", "QTableWidget", "QAction"])
def test_writing_an_unknown_attribute_raises(qt, name):
    thing = getattr(qt, name)()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        thing.colour = "red"
    with pytest.raises(AttributeError):
        thing.destroyed = lambda: None


@pytest.mark.parametrize("name", ["qMRMLNodeComboBox", "qMRMLWidget"])
def test_stand_ins_are_closed_too(host, name):
    thing = getattr(slicer, name)()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        thing.colour = "red"


def test_own_subclasses_of_widgets_may_have_attributes(qt):
    class Mine(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.colour = "red"

    assert Mine().colour == "red"


def test_connecting_by_signature(qt):
    heard = []
    button = qt.QPushButton("go")
    button.setCheckable(True)
    button.connect("clicked(bool)", heard.append)
    button.connect("clicked()", lambda: heard.append("none"))
    button.click()
    assert heard == [True, "none"]
    assert button.disconnect("clicked(bool)", heard.append)
    button.click()
    assert heard == [True, "none", "none"]
    with pytest.raises(ValueError, match="no signal"):
        button.connect("pushed()", heard.append)
    combo = qt.QComboBox()
    with pytest.raises(ValueError, match="no signal"):
        combo.connect("currentIndexChanged(QString)", heard.append)  # Qt 5 only
    with pytest.raises(ValueError, match="no signal"):
        qt.QCheckBox().connect("checkStateChanged(Qt::CheckState)", heard.append)  # Qt 6 only


def test_a_signal_is_an_object_that_connects_and_cannot_be_emitted(qt):
    heard = []
    button = qt.QPushButton("go")
    button.clicked.connect(lambda *_: heard.append(1))
    with pytest.raises(TypeError, match="trigger what emits it"):
        button.clicked()
    with pytest.raises(AttributeError, match="connect and disconnect alone"):
        button.clicked.emit()
    assert heard == []
    button.click()
    assert heard == [1]


@pytest.mark.parametrize("name, signal", [("QSpinBox", "valueChanged"), ("QComboBox", "currentIndexChanged")])
def test_overloaded_signals_need_their_signature(qt, name, signal):
    with pytest.raises(TypeError, match="overloads"):
        getattr(getattr(qt, name)(), signal).connect(print)


def test_extra_arguments_are_trimmed_for_functions_and_methods_only(qt, host):
    heard = []

    class Listener:
        def method(self):
            heard.append("method")

        def __call__(self, checked):
            heard.append(checked)

    button = qt.QPushButton()
    button.clicked.connect(lambda: heard.append("function"))
    button.clicked.connect(Listener().method)
    button.clicked.connect(Listener())
    button.click()
    assert heard == ["function", "method", False]
    button.clicked.connect(functools.partial(lambda: heard.append("partial")))
    button.click()
    (failure,) = host.failures.take()
    assert "TypeError" in failure and "partial" not in heard


def test_a_default_argument_is_overwritten_by_the_signal(qt):
    heard = []
    button = qt.QPushButton()
    button.clicked.connect(lambda run="a run": heard.append(run))
    button.click()
    assert heard == [False]


def test_enumerators_are_on_the_class_and_are_integers(qt):
    assert qt.QProcess.Running == 2 and int(qt.QMessageBox.Yes) == 0x4000
    assert qt.QProcess().state() == qt.QProcess.NotRunning == 0
    assert {qt.QProcess.Running: "yes"}[2] == "yes"
    assert int(qt.Qt.AlignLeft | qt.Qt.AlignTop) == 0x21
    with pytest.raises(AttributeError, match=r"write qt\.QProcess\.Running"):
        _ = qt.QProcess.ProcessState.Running
    assert qt.QProcess.ProcessState(2) == qt.QProcess.Running


def test_a_connection_holds_its_callable(qt):
    heard = []

    class Listener:
        def method(self):
            heard.append(1)

    button = qt.QPushButton()
    button.clicked.connect(Listener().method)
    gc.collect()
    button.click()
    assert heard == [1]


def test_exceptions_in_slots_timers_and_threads_fail_the_test(qt, host):
    button = qt.QPushButton()
    button.clicked.connect(lambda: 1 / 0)
    button.click()
    (failure,) = host.failures.take()
    assert "ZeroDivisionError" in failure and "clicked" in failure
    qt.QTimer.singleShot(0, lambda: [][1])
    while not (texts := host.failures.take()):
        host.app.processEvents()
    assert "IndexError" in texts[0]
    thread = threading.Thread(target=lambda: {}["key"])
    thread.start()
    thread.join()
    with pytest.raises(AssertionError, match="KeyError"):
        host.failures.check()


def test_warnings_of_qt_fail_the_test(qt, host):
    widget = qt.QWidget()
    qt.QVBoxLayout(widget)
    qt.QVBoxLayout(widget)  # a second layout: Qt only complains
    (failure,) = host.failures.take()
    assert "layout" in failure


@pytest.mark.parametrize(
    "name", ["Signal", "Slot", "Property", "QRegExp", "QTextCodec", "QDesktopWidget", "nothing"]
)
def test_what_slicers_qt_lacks_is_refused(qt, name):
    with pytest.raises(AttributeError):
        getattr(qt, name)


def test_the_module_uses_nothing_that_the_host_cannot_be_strict_about():
    for path in (ROOT / "VoCoSlicer").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\.(minimumS|s)izeHint\b", text), path
        assert "__del__" not in text, path
        assert not re.search(r"^\s*(import|from) PySide6", text, re.M), path


def test_timers_are_started_by_hand_or_once(qt, host):
    heard = []
    timer = qt.QTimer()
    timer.setInterval(1)
    timer.setSingleShot(True)
    timer.timeout.connect(lambda: heard.append("timer"))
    timer.start()
    assert timer.active and timer.interval == 1 and timer.singleShot
    qt.QTimer.singleShot(1, lambda: heard.append("once"))
    while len(heard) < 2:
        host.app.processEvents()
    assert sorted(heard) == ["once", "timer"]


def test_settings_are_a_file_of_the_test(qt, host):
    qt.QSettings().setValue("VoCo/python", "/a/python")
    assert str(host.folder) in qt.QSettings().fileName()
    assert slicer.util.settingsValue("VoCo/python", "") == "/a/python"
    assert slicer.app.userSettings().value("VoCo/python") == "/a/python"


# Questions


def test_messages_are_recorded_and_questions_answered(host):
    slicer.util.errorDisplay("It broke.", detailedText="all of it")
    host.answers.give(False, True)
    assert not slicer.util.confirmYesNoDisplay("Sure?")
    assert slicer.util.confirmOkCancelDisplay("Go on?")
    assert host.answers.texts() == ["It broke.", "Sure?", "Go on?"]
    assert host.answers.asked[0].details == "all of it"
    assert host.answers.asked[2].buttons == ("OK", "Cancel") or set(host.answers.asked[2].buttons) == {
        "OK",
        "Cancel",
    }


def test_a_question_without_an_answer_fails(host):
    assert not slicer.util.confirmYesNoDisplay("Sure?")
    (failure,) = host.failures.take()
    assert "nobody answered" in failure


def test_file_dialogs_return_a_text_as_pythonqt_does(qt, host):
    host.answers.give("/a/folder", False)
    assert qt.QFileDialog.getExistingDirectory(None, "Where?", "") == "/a/folder"
    assert qt.QFileDialog.getOpenFileName(None, "Which?", "", "*.json") == ""


def test_under_testing_slicer_answers_itself(host):
    host.app.hostTesting = True
    slicer.util.errorDisplay("It broke.")
    slicer.util.confirmYesNoDisplay("Sure?")
    assert host.answers.asked == []


# Node selectors follow the scene


def selector(**properties):
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    for name, value in properties.items():
        setattr(combo, name, value)
    combo.setMRMLScene(slicer.mrmlScene)
    return combo


def volume(name="volume"):
    return slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16), name=name)


def test_a_selector_offers_what_fits_and_says_what_is_chosen(host):
    combo = selector(noneEnabled=True)
    heard = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    assert combo.currentNode() is None and combo.nodeCount() == 0
    first, second = volume("first"), volume("second")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert combo.nodeCount() == 2 and combo.nodeFromIndex(1) is second
    combo.setCurrentNode(second)
    assert combo.currentNode() is second and combo.currentNodeID == second.GetID()
    combo.currentNodeID = first.GetID()
    combo.setCurrentNode(None)
    assert heard == [second, first, None]
    with pytest.raises(TypeError, match="overloads"):
        combo.currentNodeChanged.connect(print)


def test_a_selector_without_none_falls_on_another_node(host):
    combo = selector()
    first, second = volume("first"), volume("second")
    assert combo.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert combo.currentNode() is second
    slicer.mrmlScene.Clear(False)
    assert combo.currentNode() is None and combo.nodeCount() == 0


def test_a_selector_shows_new_names_and_hides_hidden_nodes(host):
    combo = selector()
    node = volume("before")
    node.SetName("after")
    assert combo._hostCombo.itemText(0) == "after"
    hidden = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.UnRegister(None)
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(hidden)
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert combo.nodeCount() == 2 and combo.nodeFromIndex(1) is label  # a label map is a scalar volume
    combo.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert combo.nodeCount() == 1


def test_checkable_selectors(host):
    combo = slicer.qMRMLCheckableNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    node, other = volume(), volume()
    heard = []
    combo.checkedNodesChanged.connect(lambda: heard.append(len(combo.checkedNodes())))
    combo.setCheckState(node, sys.modules["qt"].Qt.Checked)
    assert heard == [1] and combo.checkedNodes() == [node] and combo.uncheckedNodes() == [other]


# Widgets of numbers and boxes


def test_widgets_of_numbers_keep_their_ranges(host):
    import ctk

    slider = ctk.ctkSliderWidget()
    heard = []
    slider.connect("valueChanged(double)", heard.append)
    slider.minimum, slider.maximum, slider.decimals = 2, 10, 1
    assert slider.value == 2
    slider.value = 3.14
    slider.setValue(50)
    assert heard == [2.0, 3.1, 10.0] and slider.value == 10
    ranged = ctk.ctkRangeWidget()
    ranged.setRange(0, 1)
    ranged.setValues(0.2, 0.7)
    assert (ranged.minimumValue, ranged.maximumValue) == (0.2, 0.7)
    coordinates = ctk.ctkCoordinatesWidget()
    coordinates.coordinates = "1,2.5,-3"
    assert coordinates.coordinates == "1,2.5,-3"
    assert not hasattr(slider, "setMinimum")  # no slot in CTK: PythonQt does not see it
    with pytest.raises(AttributeError, match="no stand-in"):
        _ = ctk.ctkVTKRenderView


def test_a_section_opens_by_a_click_and_keeps_hidden_what_was_hidden(host, qt):
    import ctk

    section = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.setVisible(False)
    heard = []
    section.connect("contentsCollapsed(bool)", heard.append)
    section.show()
    section.collapsed = True
    assert not shown.isVisible()
    section.click()
    assert shown.isVisible() and not hidden.isVisible() and heard == [True, False]


# Forms


FORM = """<ui version="4.0"><class>F</class><widget class="qMRMLWidget" name="F"><layout class="QVBoxLayout" name="l">
<item><widget class="qMRMLNodeComboBox" name="volumeSelector">
<property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
<item><widget class="QLineEdit" name="nameLine">
<property name="SlicerParameterName" stdset="0"><string>name</string></property></widget></item>
<item><widget class="QSpinBox" name="countBox">
<property name="SlicerParameterName" stdset="0"><string>count</string></property></widget></item>
<item><widget class="ctkSliderWidget" name="opacitySlider"><property name="maximum"><double>1.0</double></property>
<property name="SlicerParameterName" stdset="0"><string>opacity</string></property></widget></item>
<item><widget class="QCheckBox" name="onBox">
<property name="SlicerParameterName" stdset="0"><string>on</string></property></widget></item></layout></widget>
<connections><connection><sender>F</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def form(host, tmp_path):
    path = tmp_path / "Form.ui"
    path.write_text(FORM)
    widget = slicer.util.loadUI(str(path))
    widget.setMRMLScene(slicer.mrmlScene)
    return widget


@pytest.fixture
def parameters(host):
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        name: str = "nobody"
        count: int = 3
        opacity: Annotated[float, WithinRange(0, 1)] = 0.5
        on: bool = False
        names: list[str]

    return lambda: Parameters(slicer.mrmlScene.GetSingletonNode("P", "vtkMRMLScriptedModuleNode") or new())


def new():
    node = slicer.vtkMRMLScriptedModuleNode()
    node.SetSingletonTag("P")
    return slicer.mrmlScene.AddNode(node)


def test_forms_are_made_of_stand_ins_with_their_connections(form):
    ui = slicer.util.childWidgetVariables(form)
    assert type(ui.volumeSelector) is slicer.qMRMLNodeComboBox and ui.volumeSelector.noneEnabled
    assert ui.opacitySlider.maximum == 1.0 and ui.nameLine.text == ""
    volume()
    assert ui.volumeSelector.nodeCount() == 1  # the form has handed the scene on


def test_a_form_with_a_class_that_has_no_stand_in_fails(host, tmp_path):
    path = tmp_path / "Form.ui"
    path.write_text(FORM.replace("QLineEdit", "qMRMLSegmentsTableView"))
    slicer.util.loadUI(str(path))
    assert any("qMRMLSegmentsTableView" in text for text in host.failures.take())


# The parameter node


def test_parameters_and_controls_follow_each_other(form, parameters):
    ui, node = slicer.util.childWidgetVariables(form), parameters()
    tag = node.connectGui(ui)
    assert (ui.nameLine.text, ui.countBox.value, ui.opacitySlider.value) == ("nobody", 3, 0.5)
    ui.nameLine.text = "somebody"
    ui.onBox.click()
    chosen = volume()
    ui.volumeSelector.setCurrentNode(chosen)
    assert (node.name, node.on, node.volume) == ("somebody", True, chosen)
    node.count = 8
    assert ui.countBox.value == 8
    node.disconnectGui(tag)
    ui.countBox.setValue(9)
    assert node.count == 8


def test_parameters_are_checked(parameters):
    node = parameters()
    with pytest.raises(ValueError, match="not within"):
        node.opacity = 1.5
    for name, value in (("count", "three"), ("on", 1), ("name", 3), ("volume", "an id")):
        with pytest.raises(TypeError):
            setattr(node, name, value)
    assert node.default("opacity").value == 0.5


def test_parameters_are_saved_and_loaded_with_the_scene(parameters, tmp_path):
    node = parameters()
    node.names.append("one")
    node.names = [*node.names, "two\n; three"]
    node.name, node.volume, node.on = "x = y\n<z>", volume("kept"), True
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    assert parameters().volume is None
    assert slicer.app.coreIOManager().loadNodes("SceneFile", {"fileName": str(tmp_path / "scene.mrb")})
    again = parameters()
    assert list(again.names) == ["one", "two\n; three"]
    assert (again.name, again.on, again.volume.GetName()) == ("x = y\n<z>", True, "kept")


# Modules


def test_the_module_is_loaded_entered_reloaded_and_gone(host):
    widget = host.loadModule(MODULE)
    assert slicer.modules.vocoslicer.title == "VoCo"
    assert slicer.util.getModuleWidget("VoCoSlicer") is widget and slicer.modules.VoCoSlicerWidget is widget
    host.enter("VoCoSlicer")
    assert widget.parent.isEntered
    again = host.reload("VoCoSlicer")
    assert again is not widget and slicer.modules.VoCoSlicerWidget is again
    host.exit("VoCoSlicer")
    host.close()
    assert "VoCoSlicer" not in sys.modules and "qt" not in sys.modules
    assert not hasattr(slicer, "app") and not [
        name for name in sys.modules if name.startswith("VoCoSlicerLib")
    ]
    host.__init__(host.folder)  # the fixture closes it once more


def test_the_scene_fixture_is_free_of_qt(scene):
    for name in ("qt", "ctk"):
        with pytest.raises(ImportError):
            __import__(name)
    assert slicer.mrmlScene is scene and not hasattr(slicer, "app")
