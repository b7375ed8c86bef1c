"""The whole session of Testing/slicer in a real Slicer, step by step; ends Slicer with 0 if all went well, else with 1.

    Slicer --additional-module-paths VoCoSlicer --no-splash --testing --python-script Testing/slicer/run_in_slicer.py

VOCO_PYTHON names the Python of the jobs; one chosen in the section Environment goes before it. Where neither these
nor Slicer's own Python has PyTorch, the steps that need a job are left out, and the last lines say so.
VOCO_TEST_PICTURES is a folder for screenshots, of the module always and of the main window where there is one. Runs and
stores of the user are not touched; the scene is closed. A job may take VOCO_TEST_PATIENCE seconds (600).
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
FOLDER = Path(tempfile.mkdtemp(prefix="VoCo-test-"))
os.environ["VOCO_CONFIG_HOME"] = str(FOLDER / "config")
os.environ["XDG_CACHE_HOME"] = str(FOLDER / "cache")

import slicer  # noqa: E402

try:
    import in_slicer
    import session
    import session_safe
except BaseException:  # without --testing Slicer would stay open
    if not (HERE / "session.py").is_file():
        print("run_in_slicer.py was not found: hand it to --python-script", file=sys.stderr)
    elif not hasattr(slicer.modules, "vocoslicer"):
        words = f"--additional-module-paths {HERE.parents[1] / 'VoCoSlicer'}"
        print(f"the module VoCo is not in this Slicer: start it with {words}", file=sys.stderr)
    slicer.util.exit(1)
    raise


def picture(stage):
    """What takes a picture of the module and of the main window after a step; None where no folder is given."""
    folder = os.environ.get("VOCO_TEST_PICTURES")
    if not folder:
        return lambda name: None
    Path(folder).mkdir(parents=True, exist_ok=True)

    def take(name):
        slicer.app.processEvents()
        shots = {name: stage.widget.parent, f"{name}-window": slicer.util.mainWindow()}
        for title, widget in shots.items():
            if widget is not None:
                path = Path(folder) / f"{title}.png"
                assert widget.grab().save(str(path)), f"cannot write {path}"

    return take


def hasTrainer():
    """Whether the Python of the jobs has PyTorch, by the module's own probe."""
    environment = slicer.util.getModuleWidget("VoCoSlicer").logic.environment
    task = environment.probe()
    task.run(session.PATIENCE)
    facts = environment.facts(task)
    print("jobs:", f"{environment.python} ({environment.reason})", *facts.sentences, sep="\n  ", flush=True)
    return facts.ok


def timed(stage, step):
    """Do a step, and say how long it took."""
    began = time.monotonic()
    stage.run([step])
    print(f"passed  {step.__name__}  {time.monotonic() - began:.1f} s", flush=True)


def tell(stage, step):
    """Say that a step failed, and let its error not fail all that follow."""
    traceback.print_exc()
    print(f"FAILED  {step.__name__}", flush=True)
    with suppress(AssertionError):
        stage.picture(f"failed-{step.__name__}")
    if stage.widget is not None:
        stage.widget.hideError()


def main():
    """All steps; returns how many failed, and what was left out."""
    stage = session.Stage(
        in_slicer.Here(), in_slicer.openModule, in_slicer.leaveModule, in_slicer.reopenModule, FOLDER
    )
    stage.picture = picture(stage)
    slicer.mrmlScene.Clear(0)  # steps count on a scene with nothing of others in it
    failed, left = 0, []
    withJobs = None
    for step in (*session.STEPS, *session_safe.STEPS):
        try:
            if step in session.NEED_JOBS and withJobs is None:
                withJobs = hasTrainer()
            if step in session.NEED_JOBS and not withJobs:
                left.append(step.__name__)
                continue
            timed(stage, step)
        except BaseException:
            failed += 1
            tell(stage, step)
            if step is session.STEPS[0]:
                break
            if step in session.NEED_JOBS:
                withJobs = False  # later ones stand on it
    return failed, left


try:
    failed, left = main()
    print(
        f"VoCo in Slicer {slicer.app.applicationVersion}: {failed} steps failed, {len(left)} left out", *left
    )
    if failed:
        print("what the steps wrote is kept:", FOLDER)
    print("result:", "passed" if not failed else "FAILED", flush=True)
except BaseException:
    traceback.print_exc()
    failed = 1
if not failed:
    shutil.rmtree(FOLDER, ignore_errors=True)
slicer.util.exit(1 if failed else 0)
