"""`voco predict`: a fine-tuned network on files, folders, lists of cases or DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VoCoCore.cli.main import Parser
from VoCoCore.errors import DataError, SettingsError, StopRequested, counted, nearest

_FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "dicom-seg")
_SPLITS = ("all", "train", "val", "test")
_FITTING = "fitting"  # the axes of --mirror without any named: those along which the labels are symmetric


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
    made.add_argument(
        "--split", default="all", choices=_SPLITS, help="only cases of this split of a list (all)"
    )
    made.add_argument(
        "--channels", metavar="A,B", help="file name endings of the images of one case in a folder, in order"
    )
    made.add_argument("--overlap", type=float, default=0.5, help="of the windows, 0 to below 1 (0.5)")
    made.add_argument("--batch", type=int, help="windows at a time; default: by their size")
    made.add_argument(
        "--mirror",
        nargs="?",
        const=_FITTING,
        default="",
        metavar=f"{_FITTING}|AXES",
        help="also average mirrored views, along these axes (such as xyz); without a value, as with "
        f"{_FITTING}, along those that fit: all three, or y and z where labels have a left and a right",
    )
    made.add_argument("--largest", action="store_true", help="keep the largest connected part of each label")
    made.add_argument("--probabilities", action="store_true", help="also write probabilities/CASE.nii.gz")
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace predictions of another model, or files that lie there",
    )
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    made.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    made.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 3 where some cases could not be predicted."""
    asked = parser().parse_args(list(words))
    _check(asked)
    from VoCoCore.cli.data import Progress
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.devices import choose
    from VoCoCore.inference.job import Predictions, failures
    from VoCoCore.inference.predict import Predictor
    from VoCoCore.models.model_files import load_model
    from VoCoCore.runs.weights import model_paths
    from VoCoCore.settings import RunSettings

    paths = model_paths(asked.model)
    models = [load_model(path) for path in paths]
    cases = _cases(asked, models[0][1].in_channels)
    asked.mirror = _axes(asked.mirror, [kind.name for kind in models[0][1].classes])
    machine = choose(RunSettings(device=asked.device, precision=asked.precision, threads=asked.threads))
    options = {
        name: getattr(asked, name) for name in ("format", "overlap", "mirror", "largest", "probabilities")
    }
    predictor = Predictor(
        models,
        machine,
        overlap=asked.overlap,
        batch=asked.batch,
        mirror=["xyz".index(letter) for letter in sorted(asked.mirror)],
        largest=asked.largest,
        say=lambda text: print(text, flush=True),
        scratch=Path(asked.output),
    )
    made = Predictions(Path(asked.output), predictor, paths, {**options, "overwrite": asked.overwrite})
    print(f"{counted(len(models), 'network')} on {machine.words}, {counted(len(cases), 'case')}")
    with interrupts("the case in work") as should_stop, Progress("predicting") as progress:
        done = made.predict(cases, progress, should_stop)
    for case, reason in done.failed:
        print(f"left out {case}: {reason}")
    before = f", {counted(done.skipped, '', 'was', 'were')} done before" * bool(done.skipped)
    print(f"{counted(done.predicted, 'case')} predicted into {asked.output}{before}")
    if done.of_others:
        print(f"warning: {_strangers(done.of_others, asked.output)}")
    if done.stopped:
        raise StopRequested(
            f"{done.predicted + done.skipped} of {counted(len(cases), 'case')} done", "run it again to go on"
        )
    if done.failed:
        raise failures(done)
    return 0


def _strangers(files: Sequence[str], folder: str) -> str:
    """What is said of files that --overwrite has left, since they belong to other cases than those predicted now."""
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return (
        f"in {folder} {counted(len(files), 'file', 'is', 'are')} by another model, or with other options: "
        f"{', '.join(files[:5])}{more}  (the tables and labels.json do not speak of them: predict these cases too, "
        "or move them away)"
    )


def _check(asked: Any) -> None:
    """Raises SettingsError for values that cannot be."""
    if asked.format not in _FORMATS:
        raise SettingsError(
            f"--format cannot be '{asked.format}'.{nearest(asked.format, _FORMATS)}",
            "one of " + ", ".join(_FORMATS),
        )
    if asked.format == "dicom-seg":
        from VoCoCore.data.dicom_seg import check_available

        check_available()
    if not 0 <= asked.overlap < 1:
        raise SettingsError(f"--overlap must be from 0 to below 1, not {asked.overlap}", "0.5 is usual")
    if asked.batch is not None and asked.batch < 1:
        raise SettingsError(f"--batch cannot be {asked.batch}", "predict at least one window at a time")
    axes = asked.mirror if asked.mirror != _FITTING else ""
    if set(axes) - set("xyz") or len(set(axes)) < len(axes):
        raise SettingsError(f"--mirror cannot be '{axes}'", "name axes, such as x or xyz")


def _axes(asked: str, names: Sequence[str]) -> str:
    """The axes to mirror along, for a network whose classes are called ``names``.

    Cases are turned so that x runs from left to right: along it labels with sides would change their place.
    """
    from VoCoCore.data.sides import sides

    why = sides(names) if asked == _FITTING or "x" in asked else ""
    if asked != _FITTING:
        if why:
            print(f"warning: --mirror {asked} takes left for right along x: {why}  (--mirror yz does not)")
        return asked
    if why:
        print(f"mirrored along y and z, not from left to right: {why}")
    return "yz" if why else "xyz"


def _cases(asked: Any, channels: int) -> list[Any]:
    from VoCoCore.data.cases import with_unique_ids
    from VoCoCore.data.sources import index_source

    patterns = tuple(asked.channels.split(",")) if asked.channels else None
    # A 4D file holds the images of one case where the network takes several.
    volumes = "channels" if channels > 1 else None
    found = [index_source(source, channels=patterns, volumes=volumes) for source in asked.inputs]
    skipped = sum(item.count for index in found for item in index.skipped)
    if skipped:
        files = counted(skipped, "file", "of the inputs is", "of the inputs are")
        print(f"{files} no case: 'voco data check' says why")
    once: dict[Any, Any] = {}  # a folder and a file in it may both be named
    for case in (case for index in found for case in index.cases):
        once.setdefault(case.images, case)
    cases = with_unique_ids(once.values())
    chosen = [case for case in cases if asked.split in ("all", case.split)]
    if not chosen:
        raise DataError(
            f"no case of the split {asked.split} in {', '.join(asked.inputs)}", "leave --split out for all"
        )
    return chosen
