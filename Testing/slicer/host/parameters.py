"""A stand-in for `slicer.parameterNodeWrapper` over a real vtkMRMLScriptedModuleNode, with its bindings to widgets."""

from __future__ import annotations

import types as pythonTypes
import typing

import vtk
from PySide6 import QtWidgets

from . import parameter_types as kinds
from .signals import connect, disconnect
from .uiloader import STAND_INS

SlicerParameterNamePropertyName = "SlicerParameterName"
RESERVED = [
    "allParameters",
    "default",
    "isCached",
    "dataType",
    "getValue",
    "setValue",
    "connectGui",
    "connectParametersToGui",
    "disconnectGui",
    "StartModify",
    "EndModify",
    "AddObserver",
    "RemoveObserver",
    "Modified",
    "parameterNode",
]

# Callbacks that may stay on a node. Python's garbage collector would empty one that only the node knows, because VTK
# shows it the node's observers, and the node would call the empty function then.
HELD: list = []


class _Parameter:
    def __init__(self, name: str, annotated, given) -> None:
        self.name, self.unalteredType = name, annotated
        self.kind, annotations = kinds.split(annotated)
        self.serializer = kinds.serializer(self.kind)
        self.validators = [one for one in annotations if hasattr(one, "validate")]
        default = next((one.value for one in annotations if isinstance(one, kinds.Default)), None)
        self.default = given if given is not None else default
        if self.default is None:
            self.default = self.serializer.default()

    def write(self, node, value) -> None:
        for one in self.validators:
            one.validate(value)
        self.serializer.write(node, self.name, value)

    def read(self, node):
        if not self.serializer.isIn(node, self.name):
            self.serializer.write(node, self.name, self.default)
        return self.serializer.read(node, self.name)


def _property(name: str):
    return property(
        lambda self: self.allParameters[name].read(self.parameterNode),
        lambda self, value: self.setValue(name, value),
    )


class _Wrapper:
    """What the decorator adds to the class."""

    allParameters: typing.ClassVar[dict[str, _Parameter]] = {}

    def __init__(self, parameterNode) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            parameter.read(parameterNode)

    def _known(self, name: str) -> _Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def default(self, name: str) -> kinds.Default:
        """The default of a parameter."""
        return kinds.Default(self._known(name).default)

    def dataType(self, name: str):
        """The annotated type of a parameter."""
        return self._known(name).unalteredType

    def getValue(self, name: str):
        """The value of a parameter."""
        return self._known(name).read(self.parameterNode)

    def setValue(self, name: str, value) -> None:
        """Write a parameter; raises where an annotation does not allow the value."""
        self._known(name).write(self.parameterNode, value)

    def connectGui(self, gui) -> int:
        """Bind the widgets that name a parameter: those of childWidgetVariables, or of a widget and its children."""
        if getattr(gui, "isWidgetType", lambda: False)():
            widgets = gui.findChildren(QtWidgets.QWidget)
        else:
            widgets = list(vars(gui).values())
        names = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in names.items() if name})

    def connectParametersToGui(self, mapping: dict) -> int:
        """Bind named parameters to widgets; returns a tag for `disconnectGui`."""
        bound = [(name, _connector(widget, self._known(name))) for name, widget in mapping.items()]
        tag = len(self._guis)
        self._guis[tag] = bound
        for name, connector in bound:
            connector.write(self.getValue(name))
            connector.listen(lambda name=name, connector=connector: self._fromGui(name, connector))
        callback = lambda caller, event: self._toGui()  # noqa: E731
        HELD.append(callback)
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, callback)
        return tag

    def disconnectGui(self, tag: int) -> None:
        """Undo a binding. As in Slicer 5.10, the observer on the node stays: whoever cares removes it."""
        for _, connector in self._guis.pop(tag, []):
            connector.forget()

    def _fromGui(self, name: str, connector) -> None:
        if not self._updating:
            before = self.StartModify()
            self.setValue(name, connector.read())
            self.EndModify(before)

    def _toGui(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for bound in list(self._guis.values()):
                for name, connector in bound:
                    connector.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        """As the node's."""
        return self.parameterNode.StartModify()

    def EndModify(self, before):
        """As the node's."""
        return self.parameterNode.EndModify(before)

    def AddObserver(self, event, callback, priority=0.0):
        """As the node's."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag) -> None:
        """As the node's."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """As the node's."""
        self.parameterNode.Modified()


class _Connector:
    """Reads and writes one widget by the property named, and hears one signal of it."""

    def __init__(self, widget, name: str, signal: str, convert=lambda value: value) -> None:
        self._widget, self._name, self._signal, self._convert = widget, name, signal, convert
        self._slot = None

    def read(self):
        return self._convert(self._widget.property(self._name))

    def write(self, value) -> None:
        if value != self._widget.property(self._name):
            setattr(self._widget, self._name, value)

    def listen(self, callback) -> None:
        self._slot = lambda: callback()
        connect(self._widget, self._signal, self._slot)

    def forget(self) -> None:
        disconnect(self._widget, self._signal, self._slot)


class _LineConnector(_Connector):
    def write(self, value) -> None:
        """As Slicer's, also where the text is the same: the cursor goes to the end, and nothing can be undone."""
        self._widget.text = value


class _NodeConnector(_Connector):
    def read(self):
        return self._widget.currentNode()

    def write(self, value) -> None:
        self._widget.setCurrentNode(value)


class _ChoiceConnector(_Connector):
    def __init__(self, widget, choices) -> None:
        super().__init__(widget, "currentIndex", "currentIndexChanged(int)")
        self._choices = list(choices)
        widget.clear()
        widget.addItems([str(choice) for choice in self._choices])

    def read(self):
        return self._choices[self._widget.property("currentIndex")]

    def write(self, value) -> None:
        self._widget.setCurrentIndex(self._choices.index(value))


def _connector(widget, parameter: _Parameter):
    kind, where = parameter.kind, type(widget).__name__
    choice = next((one for one in parameter.validators if isinstance(one, kinds.Choice)), None)
    simple = {
        ("QCheckBox", bool): ("checked", "toggled(bool)"),
        ("QPushButton", bool): ("checked", "toggled(bool)"),
        ("QSpinBox", int): ("value", "valueChanged(int)"),
        ("QSlider", int): ("value", "valueChanged(int)"),
        ("QDoubleSpinBox", float): ("value", "valueChanged(double)"),
        ("ctkSliderWidget", float): ("value", "valueChanged(double)"),
        ("ctkDoubleSpinBox", float): ("value", "valueChanged(double)"),
    }
    if (where, kind) in simple:
        _limit(widget, parameter)
        return _Connector(widget, *simple[where, kind])
    if (where, kind) == ("QLineEdit", str):
        return _LineConnector(widget, "text", "textChanged(QString)")
    if isinstance(widget, STAND_INS["qMRMLNodeComboBox"]) and kinds.isNodeType(kind):
        return _NodeConnector(widget, "currentNodeID", "currentNodeChanged(vtkMRMLNode*)")
    if where in ("QComboBox", "ctkComboBox") and choice is not None:
        return _ChoiceConnector(widget, choice.choices)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{parameter.unalteredType}' to {where}")


def _limit(widget, parameter: _Parameter) -> None:
    low = [one.minimum for one in parameter.validators if hasattr(one, "minimum")]
    high = [one.maximum for one in parameter.validators if hasattr(one, "maximum")]
    if type(widget).__name__ in ("ctkSliderWidget", "QSlider") and not (low and high):
        raise RuntimeError(f"{parameter.name}: a slider needs a range (WithinRange)")
    if type(widget).__name__ in ("QCheckBox", "QPushButton"):
        return
    whole = parameter.kind is int
    widget.minimum = low[0] if low else (-(2**31) if whole else float("-inf"))
    widget.maximum = high[0] if high else (2**31 - 1 if whole else float("inf"))


def parameterNodeWrapper(classtype=None):
    """Class decorator: typed, validated attributes over a vtkMRMLScriptedModuleNode, and bindings to widgets."""

    def wrap(kind):
        parameters = {}
        for name, annotated in typing.get_type_hints(kind, include_extras=True).items():
            if name in RESERVED:
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            parameters[name] = _Parameter(name, annotated, vars(kind).get(name))
        for name in parameters:
            setattr(kind, name, _property(name))
        for name, method in vars(_Wrapper).items():
            if isinstance(method, pythonTypes.FunctionType):
                setattr(kind, name, method)
        kind.allParameters = parameters
        kind._is_parameter_node_wrapper = True
        return kind

    return wrap if classtype is None else wrap(classtype)


def makeModule():
    """The module `slicer.parameterNodeWrapper`."""
    module = pythonTypes.ModuleType("slicer.parameterNodeWrapper")
    for name in ["WithinRange", "Minimum", "Maximum", "Choice", "Default", "Decimals", "SingleStep"]:
        setattr(module, name, getattr(kinds, name))
    module.parameterNodeWrapper = parameterNodeWrapper
    module.SlicerParameterNamePropertyName = SlicerParameterNamePropertyName
    module.isParameterNodeWrapper = lambda thing: getattr(thing, "_is_parameter_node_wrapper", False)
    return module
