"""`voco predict`: a fine-tuned network on files, folders, lists of cases or DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VoCoCore.cli.main import Parser
from VoCoCore.errors import DataError, SettingsError, StopRequested, nearest

_FORMATS = ("nii.gz", "nrrd", "seg.nrrd")


def parser() -> Parser:
    """The command's options."""
    made = Parser(prog="voco predict", description="Predict cases with a fine-tuned network.")
    made.add_argument(
        "--model",
        required=True,
        metavar="RUN|FILE",
        help="a fine-tuning's run, a folder of its folds, or a file",
    )
    made.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="images, folders, DICOM folders, lists of cases"
    )
    made.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the predictions go")
    made.add_argument("--format", default="nii.gz", metavar="|".join(_FORMATS), help="of label maps (nii.gz)")
    made.add_argument("--split", choices=("train", "val", "test"), help="only cases of this split of a list")
    made.add_argument("--overlap", type=float, default=0.5, help="of the windows, 0 to below 1 (0.5)")
    made.add_argument("--batch", type=int, help="windows at a time; default: by their size")
    made.add_argument(
        "--mirror", default="", metavar="AXES", help="also average views mirrored along these, as xyz"
    )
    made.add_argument("--largest", action="store_true", help="keep the largest connected part of each label")
    made.add_argument("--probabilities", action="store_true", help="also write probabilities/CASE.nii.gz")
    made.add_argument("--overwrite", action="store_true", help="replace predictions of another model")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    made.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    made.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 3 where some cases could not be predicted."""
    asked = parser().parse_args(list(words))
    mirror = _checked(asked)
    from VoCoCore.cli.data import Progress
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.devices import choose
    from VoCoCore.inference.job import Predictions, failures
    from VoCoCore.inference.predict import Predictor
    from VoCoCore.models.model_files import load_model, model_paths
    from VoCoCore.settings import RunSettings

    paths = model_paths(asked.model)
    models = [load_model(path) for path in paths]
    cases = _cases(asked)
    machine = choose(RunSettings(device=asked.device, precision=asked.precision, threads=asked.threads))
    options = {
        name: getattr(asked, name) for name in ("format", "overlap", "mirror", "largest", "probabilities")
    }
    predictor = Predictor(
        models,
        machine,
        overlap=asked.overlap,
        batch=asked.batch,
        mirror=mirror,
        largest=asked.largest,
        say=lambda text: print(text, flush=True),
    )
    made = Predictions(Path(asked.output), predictor, paths, {**options, "overwrite": asked.overwrite})
    print(f"{len(models)} network{'s' * (len(models) > 1)} on {machine.words}, {len(cases)} cases")
    with interrupts("the case in work") as should_stop, Progress("predicting") as progress:
        done = made.predict(cases, progress, should_stop)
    print(
        f"{done.predicted} cases predicted into {asked.output}"
        + (f", {done.skipped} were done before" * bool(done.skipped))
    )
    if done.stopped:
        raise StopRequested(
            f"{done.predicted + done.skipped} of {len(cases)} cases are done", "run it again to go on"
        )
    if done.failed:
        raise failures(done)
    return 0


def _checked(asked: Any) -> tuple[int, ...]:
    """The axes to mirror; raises SettingsError for values that cannot be."""
    if asked.format not in _FORMATS:
        raise SettingsError(
            f"--format cannot be '{asked.format}'.{nearest(asked.format, _FORMATS)}",
            "one of " + ", ".join(_FORMATS),
        )
    if not 0 <= asked.overlap < 1:
        raise SettingsError(f"--overlap must be from 0 to below 1, not {asked.overlap}", "0.5 is usual")
    if asked.batch is not None and asked.batch < 1:
        raise SettingsError(f"--batch cannot be {asked.batch}", "predict at least one window at a time")
    if set(asked.mirror) - set("xyz") or len(set(asked.mirror)) < len(asked.mirror):
        raise SettingsError(f"--mirror cannot be '{asked.mirror}'", "name axes, such as x or xyz")
    return tuple("xyz".index(letter) for letter in sorted(asked.mirror))


def _cases(asked: Any) -> list[Any]:
    from VoCoCore.data.cases import with_unique_ids
    from VoCoCore.data.sources import index_source

    found = [case for source in asked.inputs for case in index_source(source).cases]
    cases = [case for case in with_unique_ids(found) if asked.split in (None, case.split)]
    if not cases:
        raise DataError(
            f"no case of the split {asked.split} in {', '.join(asked.inputs)}", "leave --split out for all"
        )
    return cases
