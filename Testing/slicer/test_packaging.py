"""What CMake packages is what lies on disk, and an installed copy finds its own trainer."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "VoCoSlicer"
NOT_PACKAGED = {"CMakeLists.txt"}
SHIPPED_BY_SLICER = {"numpy", "scipy", "simpleitk"}

# Stands in for Slicer's and CTK's macros: the same words are accepted, files keep their subfolders, a file that is not
# there or a word that is not known ends the configuration.
SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Check.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.10/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.10/qt-scripted-modules)
set(Slicer_LAUNCHER_EXECUTABLE Slicer)
"""
USE_SLICER = """
option(BUILD_TESTING "" ON)
enable_testing()

macro(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR;GLOBAL_TARGET" "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR"
    "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NO_INSTALL_SUBDIR OR NOT MY_TARGET_NAME)
    message(FATAL_ERROR "ctkMacroCompilePythonScript: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    get_filename_component(folder "${MY_DESTINATION_DIR}/${file}" DIRECTORY)
    file(COPY "${CMAKE_CURRENT_SOURCE_DIR}/${file}" DESTINATION "${folder}")
  endforeach()
  install(DIRECTORY "${MY_DESTINATION_DIR}/" DESTINATION "${MY_INSTALL_DIR}" COMPONENT RuntimeLibraries)
endmacro()

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(IT "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(IT_UNPARSED_ARGUMENTS OR NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${IT_NAME}.py")
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: ${IT_NAME} ${IT_UNPARSED_ARGUMENTS}")
  endif()
  ctkMacroCompilePythonScript(TARGET_NAME ${IT_NAME} SCRIPTS "${IT_SCRIPTS}" RESOURCES "${IT_RESOURCES}"
    DESTINATION_DIR ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}
    INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR} NO_INSTALL_SUBDIR)
endmacro()

macro(slicer_add_python_unittest)
  cmake_parse_arguments(IT "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  add_test(NAME py_${IT_SCRIPT} COMMAND Slicer "${CMAKE_CURRENT_SOURCE_DIR}/${IT_SCRIPT}")
endmacro()
"""
CHECK = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
foreach(name LICENSE README)
  if(NOT EXISTS "${EXTENSION_${name}_FILE}")
    message(FATAL_ERROR "there is no EXTENSION_${name}_FILE")
  endif()
endforeach()
"""


def is_ours(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_PACKAGED


def listed(name: str) -> list[str]:
    """The words of a list of VoCoSlicer/CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf"set\({name}\s(.*?)\)", text, re.DOTALL)[1].split()


def extension_fact(name: str) -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf'set\(EXTENSION_{name} "([^"]*)"\)', text)[1]


@pytest.mark.parametrize("name", ["MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"])
def test_every_file_of_the_module_is_in_its_list(name):
    files = [path for path in MODULE.rglob("*") if is_ours(path)]
    wanted = {
        path.relative_to(MODULE).as_posix()
        for path in files
        if (path.suffix == ".py") == name.endswith("SCRIPTS")
    }
    there = listed(name)
    missing, gone = sorted(wanted - set(there)), sorted(set(there) - wanted)
    place = f"{name} in VoCoSlicer/CMakeLists.txt"
    assert not missing, f"add to {place}:\n  " + "\n  ".join(missing)
    assert not gone, f"take out of {place}:\n  " + "\n  ".join(gone)
    assert len(there) == len(set(there)), f"{place} names a file twice"


def test_requirements_are_those_of_the_trainer_less_what_slicer_ships():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    stated = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    left_out = SHIPPED_BY_SLICER | {"torch"}
    names = {line: re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in wanted}
    assert stated == {line for line in wanted if names[line] not in left_out}
    assert all(">=" in line for line in stated)


def test_the_catalogue_entry_agrees_with_cmake():
    entry = json.loads((ROOT / "VoCo.json").read_text(encoding="utf-8"))
    known = {
        "$schema",
        "category",
        "scm_url",
        "scm_revision",
        "build_dependencies",
        "build_subdirectory",
        "tier",
    }
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= known
    assert entry["build_dependencies"] == extension_fact("DEPENDS").split()
    address = entry["scm_url"].removesuffix(".git").removeprefix("https://github.com/")
    assert extension_fact("HOMEPAGE").startswith(f"https://github.com/{address}")
    for url in [extension_fact("ICONURL"), *extension_fact("SCREENSHOTURLS").split()]:
        start = f"https://raw.githubusercontent.com/{address}/{entry['scm_revision']}/"
        assert url.startswith(start) and (ROOT / url.removeprefix(start)).is_file(), url


@pytest.mark.parametrize("path", ["VoCo.png", "VoCoSlicer/Resources/Icons/VoCoSlicer.png"])
def test_icons_are_of_the_asked_size(path):
    content = (ROOT / path).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", content[16:24]) == (128, 128)


@pytest.fixture(scope="module", params=["plain", "Größe – 体积 with spaces"])
def installed(request, tmp_path_factory):
    """The scripted modules of an extension that CMake installed with the stand-ins, its source, and CTest's tests."""
    if shutil.which("cmake") is None:
        pytest.skip("needs the program cmake (package cmake)")
    root = tmp_path_factory.mktemp("package") / request.param
    slicer = root / "Slicer"
    slicer.mkdir(parents=True)
    for name, text in (("SlicerConfig", SLICER_CONFIG), ("UseSlicer", USE_SLICER), ("Check", CHECK)):
        (slicer / f"{name}.cmake").write_text(text, encoding="utf-8")
    (slicer / "Nothing.cmake").touch()
    source = root / "source"
    for name in ("VoCoSlicer", "VoCoCore"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "Testing").mkdir()
    for name in ("CMakeLists.txt", "LICENSE.txt", "README.md", "Testing/CMakeLists.txt"):
        shutil.copy(ROOT / name, source / name)
    done = cmake("-S", source, "-B", root / "build", f"-DSlicer_DIR={slicer}", "-Wno-dev")
    if "_COMPILER could be found" in done.stderr:
        pytest.skip("CMake wants a C and a C++ compiler (package g++)")
    assert done.returncode == 0, done.stderr
    done = cmake(
        "--install", root / "build", "--prefix", root / "installed", "--component", "RuntimeLibraries"
    )
    assert done.returncode == 0, done.stderr
    tests = subprocess.run(["ctest", "-N"], cwd=root / "build", capture_output=True, encoding="utf-8").stdout
    return root / "installed" / "lib" / "Slicer-5.10" / "qt-scripted-modules", source, tests


def cmake(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cmake", *map(str, words)], capture_output=True, encoding="utf-8", errors="replace", timeout=600
    )


def test_the_installed_tree_is_whole(installed):
    folder, source, tests = installed
    module, core = source / "VoCoSlicer", source / "VoCoCore"
    wanted = {path.relative_to(module) for path in module.rglob("*") if is_ours(path)}
    wanted |= {path.relative_to(source) for path in core.rglob("*") if is_ours(path)}
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == wanted
    assert {Path("VoCoCore/py.typed"), Path("VoCoCore/runs/templates/job.sbatch")} <= wanted
    assert "py_VoCo_run_in_slicer" in tests and "py_VoCoSlicer.py" in tests


def in_installed(folder: Path, code: str) -> str:
    """What ``code`` prints in a Python that starts elsewhere and has no path to this checkout but an installed one."""
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    done = subprocess.run(words, cwd=folder.parent, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_module_and_its_jobs_use_the_trainer_beside_them(installed):
    folder, _, _ = installed
    code = (
        "import VoCoSlicerLib\nfrom VoCoCore.runs.launch import spawn\n"
        "with open('said.txt', 'wb') as said:\n"
        "    code = spawn(['data', 'check', '--help'], said, said).wait(100)\n"
        "    spawn([], said, said, module='where').wait(100)\n"
        "import VoCoCore\nprint(code, ascii(VoCoCore.__file__), sorted({'torch', 'monai'} & sys.modules.keys()))"
    )
    where = folder / "where.py"
    where.write_text("import VoCoCore\nprint(ascii(VoCoCore.__file__))\n", encoding="utf-8")
    ours = ascii(str(folder / "VoCoCore" / "__init__.py"))
    assert in_installed(folder, code).strip() == f"0 {ours} []"
    where.unlink()
    said = (folder.parent / "said.txt").read_text(encoding="utf-8")
    assert "usage: voco data check" in said and said.splitlines()[-1] == ours
