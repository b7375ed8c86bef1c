"""The house holds itself up: who may import whom, what stays light, how long things get, public names."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "VoCoCore"

# From the ground up: a room imports from itself and from the rooms before it.
ROOMS = [
    "errors",
    "fields",
    "geometry",
    "settings",
    "presets",
    "finetune_settings",
    "protocols",
    "cards",
    "devices",
    "runs",
    "data",
    "models",
    "pretext",
    "downstream",
    "inference",
    "training",
    "evaluation",
    "doctor",
    "demo",
    "cli",
    "__main__",
]
# 3D Slicer's own process imports these, and so what they import: standard library and numpy, nothing else.
FOR_SLICER = re.compile(
    r"VoCoCore(\.(errors|fields|geometry|settings|presets|finetune_settings|protocols|runs(\..+)?"
    r"|data\.(cases|plan|apply|sampling|patches|places)))?"
)
FILE_LINES, TEST_LINES, FUNCTION_LINES, NESTING, INIT_STATEMENTS = 300, 450, 60, 3, 5


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SLICER_MODULE = ROOT / "VoCoSlicer"
SLICER_FILES = sorted(SLICER_MODULE.rglob("*.py"))
# Programs for the Python of the jobs, given to it by their path.
JOBS_PROGRAMS = SLICER_MODULE / "VoCoSlicerLib" / "scripts"
OUR_FILES = [*MODULES.values(), *SLICER_FILES, ROOT / "run.py", *sorted((ROOT / "Testing").rglob("*.py"))]
# What a file of the Slicer module may import when it is itself imported, beside the standard library and ours.
IN_SLICER = {"numpy", "slicer", "vtk"}
WIDGETS = {"qt", "ctk"}  # for the panels and what binds them; the logic runs without
WITH_WIDGETS = re.compile(r"VoCoSlicer\.py|VoCoSlicerLib/(panels/\w+|adapter|forms)\.py")
# Slicer's own modules and extensions: looked for at the moment they are needed, since they may be absent.
WHEN_NEEDED = {"SampleData", "PyTorchUtils"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(name: str) -> Iterator[str]:
    """Every module that a module imports, at its top or inside a function, as full dotted names."""
    return imported_within(tree_of(MODULES[name]), name)


def imported_within(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: imports are written in full"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in MODULES else str(node.module)


def imported_when_needed(path: Path) -> set[str]:
    """What a file imports inside its functions."""
    return {name for function in functions_of(path) for name in imported_within(function, path.name)}


def with_what_they_import(names: list[str]) -> list[str]:
    found = list(names)
    for name in found:  # grows while it is read
        found.extend(
            dict.fromkeys(other for other in imported(name) if other in MODULES and other not in found)
        )
    return found


SLICER_SAFE = with_what_they_import([name for name in MODULES if FOR_SLICER.fullmatch(name)])


def room_of(name: str) -> int:
    """The position of a module's room; the package itself lies under all of them."""
    parts = name.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 else -1


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def nesting(node: ast.AST, depth: int = 0) -> int:
    """The deepest level of decisions and loops within each other; an elif is on its if's level.

    ``with`` does not count, and inner functions start anew.
    """
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        opens = isinstance(child, ast.If | ast.For | ast.While | ast.Try | ast.Match) and not is_elif
        deepest = max(deepest, nesting(child, depth + opens))
    return deepest


def in_fresh_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def third_party_after(code: str) -> set[str]:
    """Top-level packages beyond the standard library that ``code`` brings into a fresh interpreter."""
    done = in_fresh_python(
        f"import sys; before = set(sys.modules)\n{code}\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print('NEW', *sorted(new - set(sys.stdlib_module_names)))"
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("NEW")[2].split())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_upwards_only(name: str) -> None:
    room = name.split(".")[1:2]
    assert not room or room[0] in ROOMS, f"{name}: a new room; say in ROOMS where it stands"
    for other in imported(name):
        if other.split(".")[0] == "VoCoCore":
            assert room_of(other) <= room_of(name), f"{name} imports {other}, which stands above it"


def test_no_import_cycles() -> None:
    graph = {name: {other for other in imported(name) if other in MODULES} - {name} for name in MODULES}
    while ends := {name for name, others in graph.items() if not others} | (
        graph.keys() - {other for others in graph.values() for other in others}
    ):
        graph = {name: others - ends for name, others in graph.items() if name not in ends}
    assert not graph, f"these import each other: {', '.join(graph)}"


@pytest.mark.parametrize("name", SLICER_SAFE)
def test_what_slicer_imports_names_only_numpy_and_ours(name: str) -> None:
    for other in imported(name):
        allowed = other.split(".")[0] in {*sys.stdlib_module_names, "numpy", "VoCoCore"}
        assert allowed, f"{name} imports {other}, but Slicer's process imports {name}"


def test_what_slicer_imports_brings_only_numpy() -> None:
    assert third_party_after(f"import {', '.join(SLICER_SAFE)}") == {"VoCoCore", "numpy"}


def test_the_package_itself_brings_nothing() -> None:
    assert third_party_after("import VoCoCore") == {"VoCoCore"}


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--help"], ["pretrain", "--recipe", "v9"]])
def test_help_and_usage_errors_come_before_torch(arguments: list[str]) -> None:
    code = f"from VoCoCore.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert not third_party_after(code) & {
        "torch",
        "monai",
        "zarr",
        "nibabel",
        "SimpleITK",
        "scipy",
        "matplotlib",
    }


@pytest.mark.parametrize(
    "path",
    [path for path in SLICER_FILES if path.parent != JOBS_PROGRAMS],
    ids=lambda path: path.relative_to(SLICER_MODULE).as_posix(),
)
def test_the_slicer_module_imports_only_what_slicers_process_may(path: Path) -> None:
    name = path.relative_to(SLICER_MODULE).as_posix()
    widgets = WIDGETS if WITH_WIDGETS.fullmatch(name) else set()
    for other in imported_within(tree_of(path), name):
        top = other.split(".")[0]
        if top == "VoCoCore":
            assert other in SLICER_SAFE, f"{name} imports {other}, which brings more than numpy into Slicer"
        elif top in WHEN_NEEDED:
            assert other in imported_when_needed(path), f"{name} imports {other} before it is needed"
        else:
            allowed = {*sys.stdlib_module_names, *IN_SLICER, *widgets, "VoCoSlicerLib"}
            assert top in allowed and not other.startswith("VoCoSlicerLib.scripts"), f"{name} imports {other}"


@pytest.mark.parametrize("path", OUR_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    most = TEST_LINES if path.name.startswith("test_") else FILE_LINES
    assert lines <= most, f"{lines} lines: two ideas in one file"
    for function in functions_of(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= FUNCTION_LINES, f"{function.name} has {length} lines"
        assert nesting(function) <= NESTING, f"{function.name} nests {nesting(function)} levels deep"


def test_no_test_imports_from_a_conftest() -> None:
    """Each folder of tests has one, and Python keeps but one module of that name."""
    for path in (ROOT / "Testing" / "core").rglob("*.py"):
        assert "conftest" not in imported_within(tree_of(path), path.name), path.name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_in_it(name: str) -> None:
    assert ast.get_docstring(tree_of(MODULES[name])), f"{name} has no docstring"


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name
)
def test_every_folder_has_a_short_init(folder: Path) -> None:
    assert (folder / "__init__.py").is_file(), f"{folder.name} has no __init__.py"
    assert len(tree_of(folder / "__init__.py").body) - 1 <= INIT_STATEMENTS


def keywords(call: ast.Call) -> dict[str, object]:
    return {word.arg or "": getattr(word.value, "value", None) for word in call.keywords}


def dangers(path: Path) -> Iterator[str]:
    """Calls and imports that can run what a file or a user's text says."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            yield from (
                f"{name}, line {node.lineno}" for name in names & {"pickle", "dill", "shelve", "marshal"}
            )
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), keywords(node)
        banned = name in {"os.system", "os.popen", "eval", "exec", "yaml.load"} or given.get("shell") is True
        unsafe_torch = name == "torch.load" and given.get("weights_only") is not True
        unsafe_numpy = name in {"np.load", "numpy.load"} and given.get("allow_pickle", False) is not False
        if banned or unsafe_torch or unsafe_numpy:
            yield f"{name}, line {node.lineno}"


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *SLICER_FILES, ROOT / "run.py"], ids=lambda path: path.name
)
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    assert not list(dangers(path))


PUBLIC_NAMES = {
    "VoCoCore.geometry": {
        "Box": ["start", "size"],
        "Box.to_world": ["self", "affine"],
        "Grid": ["volume_size", "counts"],
        "Grid.boxes": ["self"],
        "Grid.overlap_labels": ["self", "box"],
        "Grid.to_world": ["self", "affine"],
    },
    "VoCoCore.pretext.voco_losses": {
        "similarity": ["p", "q", "recipe"],
        "prediction_loss": ["logits", "labels", "recipe"],
        "regularisation_loss": ["q", "recipe"],
    },
    "VoCoCore.training.schedule": {"warmup_cosine": ["step", "base", "warmup", "total"]},
    "VoCoCore.models.weights": {
        "load_weights": ["module", "path"],
        "save_weights": ["module", "path", "metadata"],
        "Coverage": ["loaded", "missing", "unexpected", "mismatched"],
    },
    "VoCoCore.cli": {"main": ["argv"]},
}


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_public_names_take_what_others_hand_them(module: str) -> None:
    for name, expected in PUBLIC_NAMES[module].items():
        found: object = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
        assert list(inspect.signature(found).parameters)[: len(expected)] == expected, name


def test_box_and_grid_have_their_published_properties() -> None:
    geometry = import_module("VoCoCore.geometry")
    assert geometry.Box((0, 1, 2), (3, 4, 5)).stop == (3, 5, 7)
    assert geometry.Grid((64, 64, 32), (4, 4, 1)).n == 16
