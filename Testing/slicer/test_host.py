"""The host is at least as strict as Slicer: a test for each row of "PythonQt is not PySide", and for the stand-ins."""

import functools
import gc
import re
import sys
import threading

import pytest
import slicer
from grounds import ROOT


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
