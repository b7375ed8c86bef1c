"""Where a command may write, and writing beside first so that nobody ever sees half a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from VoCoCore.errors import SettingsError
from VoCoCore.runs import files


def check_output(
    path: Path, endings: Sequence[str], source: Path, overwrite: bool = False, mark: str = ""
) -> None:
    """Raise SettingsError unless ``path`` may be written: its ending fits, it is new, and is not ``source``.

    With ``overwrite`` a file may be replaced, and a folder that holds the file ``mark``. ``endings`` of a folder are
    empty.
    """
    if endings and path.suffix.lower() not in endings:
        raise SettingsError(
            f"-o '{path}' should end in {' or '.join(endings)}", f"such as {path}{endings[0]}"
        )
    if not path.exists() and not path.is_symlink():
        return
    if not endings and path.is_dir() and not any(path.iterdir()):
        return
    if path.resolve() == source.resolve():
        raise SettingsError(
            f"{path} would replace the file that it is made from", "name another file with -o"
        )
    if overwrite and (path.is_file() if endings else (path / mark).is_file()):
        return
    if path.is_dir() and (endings or overwrite):
        raise SettingsError(f"{path} is a folder that holds something else", "name another place with -o")
    raise SettingsError(f"{path} exists already", "name another place with -o, or add --overwrite")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `runs.files.replacing`, in a folder that is made where it is not there."""
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as beside:
        yield beside
