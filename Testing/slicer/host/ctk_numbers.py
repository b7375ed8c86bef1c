"""Stand-ins for CTK's widgets of numbers; properties, slots and signals are those of the C++ classes."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

from .signals import HostSignal
from .standins import hostProperty, standIn

STEPS = 1000


@standIn
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box: value within [minimum, maximum]; valueChanged(double), valueIsChanging(double)."""

    valueChanged = HostSignal("valueChanged", "double")
    valueIsChanging = HostSignal("valueIsChanging", "double")
    decimalsChanged = HostSignal("decimalsChanged", "int")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostSlider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._hostSlider.setRange(0, STEPS)
        self._hostSpin = QtWidgets.QDoubleSpinBox()
        row.addWidget(self._hostSlider, 1)
        row.addWidget(self._hostSpin)
        self._hostBusy = False
        self._hostRange()
        self._hostSlider.connect("valueChanged(int)", self._hostSlid)
        self._hostSpin.connect("valueChanged(double)", self.setValue)

    def _hostRange(self) -> None:
        self._hostBusy = True
        self._hostSpin.setDecimals(self.decimals)
        self._hostSpin.setRange(self.minimum, self.maximum)
        self._hostSpin.setSingleStep(self.singleStep)
        self._hostSpin.setPrefix(self.prefix)
        self._hostSpin.setSuffix(self.suffix)
        self._hostBusy = False
        self.setValue(self.value)

    def _hostShow(self) -> None:
        self._hostBusy = True
        span = max(self.maximum - self.minimum, 1e-12)
        self._hostSlider.setValue(round((self.value - self.minimum) / span * STEPS))
        self._hostSpin.setValue(self.value)
        self._hostBusy = False
        type(self).valueChanged.emit(self, self.value)

    def _hostSlid(self, position: int) -> None:
        if not self._hostBusy:
            self.setValue(self.minimum + position / STEPS * (self.maximum - self.minimum))

    decimals = hostProperty(int, "decimals", 2, "_hostRange")
    singleStep = hostProperty(float, "singleStep", 1.0, "_hostRange")
    pageStep = hostProperty(float, "pageStep", 10.0)
    minimum = hostProperty(float, "minimum", 0.0, "_hostRange")
    maximum = hostProperty(float, "maximum", 99.0, "_hostRange")
    prefix = hostProperty(str, "prefix", "", "_hostRange")
    suffix = hostProperty(str, "suffix", "", "_hostRange")
    tracking = hostProperty(bool, "tracking", True)
    spinBoxVisible = hostProperty(bool, "spinBoxVisible", True)
    tickInterval = hostProperty(float, "tickInterval", 0.1)
    _hostValue = hostProperty(float, "value", 0.0, "_hostShow")

    def _hostRead(self) -> float:
        return self._hostValue

    def setValue(self, value: float) -> None:
        """Slot: kept within the range, rounded to the decimals."""
        if not self._hostBusy:
            self._hostValue = round(min(max(float(value), self.minimum), self.maximum), self.decimals)

    value = QtCore.Property(float, _hostRead, setValue)

    def setDecimals(self, decimals: int) -> None:
        """Slot."""
        self.decimals = decimals

    def setSpinBoxVisible(self, visible: bool) -> None:
        """Slot."""
        self.spinBoxVisible = visible
        self._hostSpin.setVisible(visible)

    def reset(self) -> None:
        """Slot: back to the minimum."""
        self.setValue(self.minimum)


@standIn
class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A spin box of floating-point numbers; valueChanged(double)."""

    valueChanged = HostSignal("valueChanged", "double", more=("QString",))
    editingFinished = HostSignal("editingFinished")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostSpin = QtWidgets.QDoubleSpinBox()
        row.addWidget(self._hostSpin)
        self._hostSpin.connect("valueChanged(double)", self._hostTyped)

    def _hostRange(self) -> None:
        self._hostSpin.setDecimals(self.decimals)
        self._hostSpin.setRange(self.minimum, self.maximum)
        self._hostSpin.setSingleStep(self.singleStep)
        self._hostSpin.setPrefix(self.prefix)
        self._hostSpin.setSuffix(self.suffix)
        self._hostSpin.setReadOnly(self.readOnly)

    def _hostTyped(self, value: float) -> None:
        type(self).valueChanged.emit(self, value)

    decimals = hostProperty(int, "decimals", 2, "_hostRange")
    singleStep = hostProperty(float, "singleStep", 1.0, "_hostRange")
    minimum = hostProperty(float, "minimum", 0.0, "_hostRange")
    maximum = hostProperty(float, "maximum", 99.99, "_hostRange")
    prefix = hostProperty(str, "prefix", "", "_hostRange")
    suffix = hostProperty(str, "suffix", "", "_hostRange")
    readOnly = hostProperty(bool, "readOnly", False, "_hostRange")

    def _hostRead(self) -> float:
        return self._hostSpin.value

    def setValue(self, value: float) -> None:
        """Slot."""
        self._hostSpin.setValue(float(value))

    value = QtCore.Property(float, _hostRead, setValue)

    def setDecimals(self, decimals: int) -> None:
        """Slot."""
        self.decimals = decimals

    def setReadOnly(self, fixed: bool) -> None:
        """Slot."""
        self.readOnly = fixed


@standIn
class ctkRangeWidget(QtWidgets.QWidget):
    """Two numbers, minimumValue <= maximumValue, within [minimum, maximum]; valuesChanged(double, double)."""

    valuesChanged = HostSignal("valuesChanged", "double", "double")
    minimumValueChanged = HostSignal("minimumValueChanged", "double")
    maximumValueChanged = HostSignal("maximumValueChanged", "double")
    rangeChanged = HostSignal("rangeChanged", "double", "double")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostSpins = (QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox())
        self._hostBusy = False
        self._hostRange()
        for spin, slot in zip(self._hostSpins, (self.setMinimumValue, self.setMaximumValue), strict=True):
            row.addWidget(spin)
            spin.connect("valueChanged(double)", slot)

    def _hostRange(self) -> None:
        for spin in self._hostSpins:
            spin.setDecimals(self.decimals)
            spin.setRange(self.minimum, self.maximum)
            spin.setSuffix(self.suffix)
        self.setValues(self._hostLow, self._hostHigh)

    def _hostShow(self) -> None:
        self._hostBusy = True
        for spin, value in zip(self._hostSpins, (self._hostLow, self._hostHigh), strict=True):
            spin.setValue(value)
        self._hostBusy = False
        type(self).valuesChanged.emit(self, self._hostLow, self._hostHigh)

    decimals = hostProperty(int, "decimals", 2, "_hostRange")
    singleStep = hostProperty(float, "singleStep", 1.0)
    minimum = hostProperty(float, "minimum", 0.0, "_hostRange")
    maximum = hostProperty(float, "maximum", 99.0, "_hostRange")
    suffix = hostProperty(str, "suffix", "", "_hostRange")
    _hostLow = hostProperty(float, "minimumValue", 0.0)
    _hostHigh = hostProperty(float, "maximumValue", 99.0)

    def setValues(self, low: float, high: float) -> None:
        """Slot: kept within the range and in order."""
        if self._hostBusy:
            return
        low = min(max(float(low), self.minimum), self.maximum)
        high = min(max(float(high), low), self.maximum)
        changed = (low, high) != (self._hostLow, self._hostHigh)
        self._hostLow, self._hostHigh = low, high
        if changed:
            self._hostShow()

    def setMinimumValue(self, value: float) -> None:
        """Slot."""
        self.setValues(value, max(value, self._hostHigh))

    def setMaximumValue(self, value: float) -> None:
        """Slot."""
        self.setValues(min(value, self._hostLow), value)

    def setRange(self, low: float, high: float) -> None:
        """Set minimum and maximum."""
        self.minimum, self.maximum = low, high

    minimumValue = QtCore.Property(float, lambda self: self._hostLow, setMinimumValue)
    maximumValue = QtCore.Property(float, lambda self: self._hostHigh, setMaximumValue)


@standIn
class ctkCoordinatesWidget(QtWidgets.QWidget):
    """Several numbers in a row, read and written as one text "x,y,z"; coordinatesChanged(double*)."""

    coordinatesChanged = HostSignal("coordinatesChanged", "double*", more=("double,double,double,double",))

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostSpins: list = []
        self._hostBuild()

    def _hostBuild(self) -> None:
        for spin in self._hostSpins:
            self.layout().removeWidget(spin)
            spin.deleteLater()
        self._hostSpins = [QtWidgets.QDoubleSpinBox(self) for _ in range(self.dimension)]
        for spin in self._hostSpins:
            self.layout().addWidget(spin)
            spin.connect("valueChanged(double)", self._hostChanged)
        self._hostRange()

    def _hostRange(self) -> None:
        for spin in self._hostSpins:
            spin.setDecimals(self.decimals)
            spin.setRange(self.minimum, self.maximum)
            spin.setSingleStep(self.singleStep)

    def _hostChanged(self, value: float) -> None:
        type(self).coordinatesChanged.emit(self, None)

    dimension = hostProperty(int, "dimension", 3, "_hostBuild")
    decimals = hostProperty(int, "decimals", 3, "_hostRange")
    singleStep = hostProperty(float, "singleStep", 1.0, "_hostRange")
    minimum = hostProperty(float, "minimum", -100000.0, "_hostRange")
    maximum = hostProperty(float, "maximum", 100000.0, "_hostRange")

    def _hostText(self) -> str:
        return ",".join(f"{spin.value:g}" for spin in self._hostSpins)

    def _hostSetText(self, text: str) -> None:
        for spin, part in zip(self._hostSpins, text.split(","), strict=False):
            spin.setValue(float(part))

    coordinates = QtCore.Property(str, _hostText, _hostSetText)

    def setDecimals(self, decimals: int) -> None:
        """Slot."""
        self.decimals = decimals
