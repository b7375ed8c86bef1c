"""The section "Environment": which Python runs the jobs, what it has, and one button that installs what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import EnvironmentFault, VocoError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.environment import Facts, unusable
from VoCoSlicerLib.packages import Installer, Plan
from VoCoSlicerLib.panels.base import Panel
from VoCoSlicerLib.tasks import Task
from VoCoSlicerLib.threads import asVocoError

_POLL = 200  # milliseconds
_ROUNDS = 3  # of planning and installing: PyTorch, the rest, a repair


class EnvironmentPanel(Panel):
    """Facts, the choice of a Python, "Check again" and "Install". One thing is under way at a time."""

    form = "Environment.ui"

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        self._task: Task | None = None
        self._then: Callable[[Task], None] | None = None
        self._log = ""
        self._rounds = 0  # of installing that are left
        self._timer = adapter.makeTimer(_POLL, self._poll)
        ui = self.ui
        ui.pythonEdit.editingFinished.connect(self._onPython)
        ui.browseButton.clicked.connect(lambda *_: self._browse())
        ui.checkPythonButton.clicked.connect(lambda *_: self.check())
        ui.installButton.clicked.connect(lambda *_: self.install())
        ui.cancelInstallButton.clicked.connect(lambda *_: self._onCancel())
        ui.installLogButton.clicked.connect(lambda *_: self.showLog())
        ui.installBar.setRange(0, 0)
        self._show()

    @property
    def facts(self) -> Facts | None:
        """What the last probe found; the logic's own, by which estimates judge the machine too."""
        return self.logic.facts

    @facts.setter
    def facts(self, facts: Facts | None) -> None:
        self.logic.facts = facts

    def enter(self) -> None:
        """Look at the Python of the jobs, the first time."""
        if self.facts is None and self._task is None:
            self.check()

    def cleanup(self) -> None:
        """Stop what is under way."""
        self.cancel()
        self._timer.stop()
        super().cleanup()

    # What a user does

    def check(self) -> None:
        """Probe the Python of the jobs, in the background."""
        self._rounds = 0
        self.host.hideError()
        self._begin(self.logic.environment.probe(), self._onFacts, _("Looking at the Python of the jobs..."))

    def choose(self, python: str) -> None:
        """Choose another Python for the jobs ("": none in particular), and look at it."""
        self.logic.environment.choose(python)
        self.ui.pythonEdit.setModified(False)
        self.cancel()
        self.facts = None
        self.check()

    def install(self) -> None:
        """Find out what is missing and what that costs, ask, and install it; then look again."""
        self._rounds = _ROUNDS
        self._log = ""
        self.host.hideError()
        self._guarded(self._plan)

    def cancel(self) -> None:
        """Stop what is under way."""
        task, self._task, self._then, self._rounds = self._task, None, None, 0
        if task is not None:
            task.cancel()
        self._show()

    def showLog(self) -> None:
        """Show what pip and the check have printed."""
        adapter.showText(_("Log"), self._log)

    # Inside

    def _plan(self) -> None:
        installer = self._installer()
        if installer is None:
            return
        task = installer.plan()
        if task is None:
            self._ask(installer, None)
        else:
            self._begin(
                task, lambda done: self._ask(installer, done), _("Finding out what would be installed...")
            )

    def _ask(self, installer: Installer, task: Task | None) -> None:
        """Show what would be done, and do it on consent."""
        plan = installer.read(task)
        if not self._consent(plan):
            self._rounds = 0
            self._show(_("Nothing was installed."))
            return
        if plan.throughExtension:
            self._run(installer, installer.installTorch(), _("Installing PyTorch..."))
        elif (task := installer.install()) is not None:
            self._run(installer, task, _("Installing..."))

    def _consent(self, plan: Plan) -> bool:
        text = _("To be installed into the Python of the jobs ({python}):\n\n{changes}\n\nGo on?").format(
            python=self.logic.environment.python, changes=plan.words()
        )
        return adapter.ask(_("VoCo"), text, [_("Install"), _("Cancel")]) == 0

    def _run(self, installer: Installer, task: Task, words: str) -> None:
        self.logic.installing = task
        self._begin(task, lambda done: self._onInstalled(installer, done), words)

    def _onInstalled(self, installer: Installer, task: Task) -> None:
        self._rounds -= 1
        if error := installer.explain(task):
            self._fail(error)
        self._look()

    def _look(self) -> None:
        """Probe after installing: only that tells whether all is well."""
        self._begin(self.logic.environment.probe(), self._onFacts, _("Looking whether all is well..."))

    def _onFacts(self, task: Task) -> None:
        before, self.facts = self.facts, self.logic.environment.facts(task)
        if self._rounds and _lacks(before) == _lacks(self.facts):
            what = _("pip said that all went well, but what was missing is missing still")
            self._fail(EnvironmentFault(what, _("Show log has all that pip said")))
            return
        going = self._rounds and not self.facts.ok and self._installer() is not None
        if going and self._rounds < _ROUNDS:
            self._plan()
            return
        self._rounds = 0
        self._show()
        mended = self.facts.ok and before is not None and not before.ok
        now = _("Installed: jobs can run now, with PyTorch {version}.").format(version=self.facts.torch)
        self.host.say(now if mended else self.facts.sentences[0])

    def _installer(self) -> Installer | None:
        if self.facts is None:
            return None
        installer = Installer(self.logic.environment, self.facts)
        return installer if installer.needed else None

    def _begin(self, task: Task, then: Callable[[Task], None], words: str) -> None:
        if self._task is not None:
            return
        try:
            task.start()
        except Exception as error:  # a button has nobody to raise to
            fault = asVocoError(error, _("the start"))
            self.facts = unusable(task.python, fault.message)
            self._fail(fault)
            return
        self._task, self._then = task, then
        self._timer.start()
        self._show(words)

    def _poll(self) -> None:
        task, then = self._task, self._then
        if task is None:
            self._timer.stop()
            return
        now = task.poll()
        if now.lines:
            said = [line for line in now.lines if not line.startswith(("{", "[{"))]  # else for us alone
            self._log += "".join(f"{line}\n" for line in said)
            if self._rounds and said:
                self.ui.installLabel.setText(said[-1][:200])
        if now.running:
            return
        self._task = self._then = None
        self._timer.stop()
        self._guarded(lambda: then(task))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the next step; what goes wrong is shown, and ends it: buttons and timers have nobody to raise to."""
        try:
            work()
        except Exception as error:
            self._fail(asVocoError(error, _("the last step")))

    def _fail(self, error: VocoError) -> None:
        self._rounds = 0
        self.host.showError(error, self._log or None)
        self._show()

    def _onCancel(self) -> None:
        installing = bool(self._rounds)
        self.cancel()
        if installing:  # pip may have left anything half done
            self.check()

    def _onPython(self) -> None:
        text = str(adapter.read(self.ui.pythonEdit, "text")).strip()
        if text != self.logic.environment.chosen:
            self.choose(text)

    def _browse(self) -> None:
        if path := adapter.chooseFile(_("Program of another Python")):
            self.choose(path)

    def _show(self, words: str = "") -> None:
        ui, environment, facts, busy = self.ui, self.logic.environment, self.facts, self._task is not None
        with adapter.blocked(ui.pythonEdit):
            if not adapter.read(ui.pythonEdit, "modified"):  # else a hand is typing while something has ended
                ui.pythonEdit.setText(environment.chosen)
            ui.pythonEdit.setPlaceholderText(environment.python)
        ui.reasonLabel.setText(
            _("{python} ({reason})").format(python=environment.python, reason=environment.reason)
        )
        warnings = facts.warnings if facts else ()
        ui.warningsLabel.setText("\n".join(warnings))
        ui.warningsLabel.setVisible(bool(warnings))
        rest = [sentence for sentence in facts.sentences if sentence not in warnings] if facts else []
        ui.factsLabel.setText("\n".join(rest) if rest else _("Not looked at yet."))
        ui.checkPythonButton.setEnabled(not busy)
        needed = self._installer() is not None
        ui.installButton.setEnabled(needed and not busy)
        reason = _("Nothing is missing") if facts and facts.ok else _("Press Check again first")
        ui.installButton.setToolTip(
            _("Find out what is missing or broken, say how much that is to download, ask, then install it")
            if needed
            else reason
        )
        ui.cancelInstallButton.setEnabled(busy)
        ui.installLogButton.setEnabled(bool(self._log))
        ui.installBar.setVisible(busy)
        ui.installLabel.setText(words)
        ui.installLabel.setVisible(bool(words))


def _lacks(facts: Facts | None) -> tuple[set[str], set[str]] | None:
    """What a Python lacks, and what is broken in it."""
    return None if facts is None else (set(facts.missing), set(facts.broken))
