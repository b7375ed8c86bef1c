"""What stands around the package: run.py, the pinned requirements, the files at the top."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import VoCoCore

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = (ROOT / "Testing" / "requirements.txt").read_text(encoding="utf-8")
TEXTS = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".html", ".j2", ".cfg", ""}
FOLDERS = ["VoCoCore", "VoCoSlicer", "Testing", "docs", ".ci", ".github"]


def load_run_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_py(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py as a module, with a Python that is there and an environment that needs nothing."""
    module = load_run_py()
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(module, "ensure_environment", lambda kind: None)
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)


def test_run_py_explains_itself() -> None:
    said = run("--help")
    assert said.returncode == 0
    assert all(f"run.py {command}" in said.stdout for command in ("demo", "test", "lint", "bench", "docs"))


def test_run_py_answers_an_unknown_command_in_one_line() -> None:
    said = run("tests")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.count("\n") == 1 and "'tests'" in said.stderr


@pytest.mark.parametrize("version", [(3, 6), (3, 10), (3, 14)])
def test_run_py_refuses_a_python_without_packages(run_py: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(run_py.Failure, match=r"needs 3\.11, 3\.12 or 3\.13") as failure:
        run_py.check_python(version)
    assert failure.value.args[1] == 4


def test_run_py_takes_the_pythons_that_the_package_takes(run_py: ModuleType) -> None:
    for minor in range(8, 18):
        taken = SpecifierSet(PROJECT["requires-python"]).contains(f"3.{minor}.2")
        assert taken == (run_py.OLDEST <= (3, minor) <= run_py.NEWEST)


def test_run_py_tells_intel_macs_why(run_py: ModuleType) -> None:
    run_py.check_machine("Darwin", "arm64")
    with pytest.raises(run_py.Failure, match="Intel Mac"):
        run_py.check_machine("Darwin", "x86_64")


def test_run_py_shares_the_tests_among_cores(run_py: ModuleType) -> None:
    assert run_py.shared_among(1) == []
    assert [run_py.shared_among(cores)[:2] for cores in (2, 4, 64)] == [["-n", "3"], ["-n", "4"], ["-n", "4"]]
    # fixtures of a file are made once: its tests stay together
    assert "loadfile" in run_py.shared_among(2)


def test_run_py_asks_for_the_torch_that_the_package_asks_for(run_py: ModuleType) -> None:
    assert run_py.TORCH.replace(" ", "") in PROJECT["dependencies"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, list[tuple[str, ...]]]:
    """run.py with an empty .venv of its own and an installer that only notes what it was asked for."""
    module = load_run_py()
    orders: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(module, "make_venv", lambda: None)
    monkeypatch.setattr(module, "install", lambda *order, uv=True: orders.append(order))
    return module, orders


def test_the_environment_is_made_once_and_again_when_its_list_changes(
    installed: tuple[ModuleType, list[tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, orders = installed
    module.ensure_environment("develop")
    assert any("--require-hashes" in order for order in orders)
    first = len(orders)
    module.ensure_environment("develop")
    module.ensure_environment("use")  # what tests the package also runs it
    assert len(orders) == first
    monkeypatch.setattr(module, "TORCH", "torch==2.12.0")
    module.ensure_environment("develop")
    assert len(orders) == 2 * first and ("torch==2.12.0",) in orders


def test_a_failed_install_leaves_no_stamp(
    installed: tuple[ModuleType, list[tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, _ = installed
    module.ensure_environment("use")

    def fail(*order: str, uv: bool = True) -> None:
        raise module.Failure("no network", 4)

    monkeypatch.setattr(module, "install", fail)
    with pytest.raises(module.Failure):
        module.ensure_environment("develop")
    assert not list(tmp_path.glob("*.stamp"))


def test_test_runs_every_linter_then_pytest_and_fails_with_either(
    run_py: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def call_but_fail(failing: str) -> Callable[..., int]:
        def call(command: list[str], **extra: str) -> int:
            asked.append(command[2])
            return int(command[2] == failing)

        return call

    for failing, code in (("", 0), ("mypy", 1), ("pytest", 1)):
        asked.clear()
        monkeypatch.setattr(run_py, "call", call_but_fail(failing))
        assert run_py.main(["test"]) == code
        assert asked == ["ruff", "ruff", "mypy", "codespell_lib", "pytest"]
    asked.clear()
    assert run_py.main(["test", "-k", "crops"]) == 1 and asked == ["pytest"]


def test_every_dependency_but_torch_is_pinned_within_its_range_and_hashed() -> None:
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", PINS, re.MULTILINE):
        pinned.setdefault(name, set()).add(version)
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        versions = pinned.get(wanted.name.lower().replace("_", "-"), set())
        assert (wanted.name == "torch") != bool(versions), wanted.name
        assert all(wanted.specifier.contains(version) for version in versions), line
    assert PINS.count("--hash=sha256:") >= len(pinned)
    assert "://" not in PINS and "nvidia" not in PINS


def test_the_server_runs_the_readmes_command_on_all_systems() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert "python3 run.py test" in script and "python3 run.py test" in (ROOT / "README.md").read_text(
        "utf-8"
    )
    assert job["steps"][-1]["run"] == "python run.py test"
    assert {system.split("-")[0] for system in job["strategy"]["matrix"]["system"]} == {
        "ubuntu",
        "windows",
        "macos",
    }
    for minor in job["strategy"]["matrix"]["python"]:
        assert minor in SpecifierSet(PROJECT["requires-python"])


def test_version_licence_and_changelog_agree() -> None:
    assert "Apache License" in (ROOT / PROJECT["license-files"][0]).read_text(encoding="utf-8")
    released = re.findall(
        r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == VoCoCore.__version__ == cited["version"]
    assert cited["license"] == PROJECT["license"]


# Folders of somebody's machine, and options that would name a package host. Tests may speak of /home/someone.
PRIVATE = re.compile(r"(?<![\w.])/(?:root|work)/\w|--(?:extra-)?index-url|--find-links")
HOMES = re.compile(r"(?<![\w.])/(?:home|Users|mnt)/\w|[A-Z]:\\Users")


def test_no_text_names_a_machine_or_a_package_host() -> None:
    files = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".coverage"]
    for path in files:
        if not path.is_file() or path.suffix not in TEXTS or path == Path(__file__).resolve():
            continue
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        assert not (found := PRIVATE.search(text)), f"{name}: {found[0]}"
        assert name.parts[0] == "Testing" or not (found := HOMES.search(text)), (
            f"{name}: {found and found[0]}"
        )


def test_no_test_asserts_how_long_something_takes() -> None:
    """Times are measured in Testing/benchmarks; a test counts instead."""
    clock = re.compile(r"thread_time|process_time|perf_counter|assert .*monotonic\(\) - ")
    scripts = [*(ROOT / "Testing" / "core").glob("*.py"), *(ROOT / "Testing" / "slicer").glob("*.py")]
    timed = [path.name for path in scripts if clock.search(path.read_text(encoding="utf-8"))]
    assert timed == [Path(__file__).name]
