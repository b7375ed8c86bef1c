"""The host's stand-ins for Slicer's widgets, forms, parameter node and modules behave as Slicer's do."""

import sys
from typing import Annotated

import numpy as np
import pytest
import slicer
from grounds import MODULE


@pytest.fixture
def qt(host):
    return sys.modules["qt"]


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


def test_the_scene_fixture_is_free_of_qt(scene):
    for name in ("qt", "ctk"):
        with pytest.raises(ImportError):
            __import__(name)
    assert slicer.mrmlScene is scene and not hasattr(slicer, "app")
