"""What the README and the documentation show works: commands run, links lead somewhere, the pages build."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import pytest

from VoCoCore import cli, errors
from VoCoCore.cli.main import COMMANDS
from VoCoCore.cli.options import given_settings
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.directory import is_run
from VoCoCore.settings import PretrainSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
RESOLVE = {
    "pretrain": (PretrainSettings, resolve_pretrain),
    "finetune": (FinetuneSettings, resolve_finetune),
}
# Options that make a shown command quick; the later one of two wins.
QUICKLY = {
    "pretrain": "--steps 2 --batch 1 --encoder unet --workers 0 --device cpu --run.validation_rounds 1",
    "doctor": "--encoder unet",
    "finetune": "--steps 2 --batch 1 --patches.size 32,32,32 --prepare.spacing 8,8,10 --workers 0 --device cpu",
    "predict": "--device cpu --overlap 0.25",
    "evaluate": "--workers 0",
}


def name_of(page: Path) -> str:
    return page.name


def shown_commands(page: Path) -> list[list[str]]:
    """The commands of a page's console blocks: lines that begin with ``$``, continued ones joined."""
    text = "\n".join(CONSOLE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [shlex.split(line[2:], comments=True) for line in text.splitlines() if line.startswith("$ ")]


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the folders ``volumes`` and ``labelled`` that the pages speak of, and homes of its own."""
    from VoCoCore.data.phantom import make_cohort

    make_cohort(tmp_path / "labelled", cases=5, seed=1, size=(32, 32, 24))
    made = make_cohort(tmp_path / "made", cases=6, size=(32, 32, 24), labels=False)
    (tmp_path / "volumes").mkdir()
    for number, image in enumerate(sorted((made / "imagesTr").iterdir()), start=1):
        image.rename(tmp_path / "volumes" / f"patient_{number:02}.nii.gz")
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "guide.md"], ids=name_of)
def test_the_voco_commands_of_a_page_run_one_after_another(page: Path, cohort: Path) -> None:
    commands = [words[1:] for words in shown_commands(page) if words[0] == "voco" and words[1] != "demo"]
    assert commands, "the page shows no command"
    for words in commands:
        code = cli.main([*words, *QUICKLY.get(words[0], "").split()])
        assert code == 0, f"voco {shlex.join(words)} ended with {code}"
    told = re.findall(r"`([\w.]+)", table_below("## A run is a folder", ROOT / "docs" / "developer.md"))
    for run in filter(is_run, cohort.glob("runs/*")):
        assert {path.name for path in run.iterdir()} <= set(told), (
            f"{run.name} has what its table does not tell"
        )


def table_below(heading: str, page: Path) -> str:
    """The first column of the first table below a heading."""
    rows = page.read_text(encoding="utf-8").partition(heading)[2].partition("\n|")[2].split("\n\n")[0]
    return "\n".join(row.strip("|").partition("|")[0] for row in rows.splitlines())


def test_the_python_examples_run(cohort: Path) -> None:
    examples = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "developer.md").read_text("utf-8"), re.M | re.S
    )
    assert len(examples) >= 4
    for example in examples:
        exec(compile(example, "developer.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_other_commands_of_a_page_exist(page: Path) -> None:
    usage = (ROOT / "run.py").read_text(encoding="utf-8")
    for words in shown_commands(page):
        if words[:2] == ["python3", "run.py"]:
            assert f"python3 run.py {words[2]} " in usage, f"run.py has no {words[2]}"
        else:
            assert words[0] in {"voco", "git", "cd", ".venv/bin/voco", "uv", "pre-commit", "torchrun"}, words


def test_the_jobs_for_a_server_are_understood() -> None:
    """What only a server can run is read as far as its settings."""
    shown = shown_commands(ROOT / "docs" / "reproduce.md")
    jobs = [words[words.index(name) :] for words in shown for name in RESOLVE if name in words]
    assert len(jobs) > 20
    for name, *words in jobs:
        module = importlib.import_module(f"VoCoCore.cli.{name}")
        kind, resolve = RESOLVE[name]
        resolve(given_settings(module.parser().parse_args(words), kind))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_readme_lists_the_exit_codes_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.VocoError)}
    assert sorted(map(int, rows)) == sorted({0, *codes})


def test_the_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| `voco (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == set(COMMANDS)


def test_the_pages_build(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "method" / "index.html").is_file()


def kinds_in_tests() -> set[str]:
    """Kinds of faults that stand as a plain text in the tests; many more are put together there.

    Not those of tests that are skipped somewhere, as for an administrator, who may write anywhere.
    """
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "Testing" / "core").glob("test_*.py"))
    tests = [node for text in texts for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    calls = [
        call
        for test in tests
        if all("parametrize" in ast.unparse(mark) for mark in test.decorator_list)
        for call in ast.walk(test)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "meet"
    ]
    kinds = (call.args[1] for call in calls if len(call.args) > 1)
    return {kind.value for kind in kinds if isinstance(kind, ast.Constant)}


def test_the_list_of_faults_is_as_the_tests_write_it(tmp_path: Path, monkeypatch) -> None:
    page, copy = ROOT / "docs" / "faults.md", tmp_path / "faults.md"
    shutil.copy(page, copy)
    monkeypatch.setattr(faults, "met", {})
    faults.write_list(copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    rows = {faults.kind_in(line) for line in page.read_text(encoding="utf-8").splitlines()}
    missing = sorted(kind for kind in kinds_in_tests() if faults.escaped(kind) not in rows)
    assert not missing, "run their tests with VOCO_FAULT_LIST=docs/faults.md in the environment"
