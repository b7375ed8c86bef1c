"""Contact sheet and table: orientation, pages, words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.contact import contact_sheet, describe, radiological
from VoCoCore.data.images import write_image
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.store import Store
from VoCoCore.data.wanted import Wanted
from VoCoCore.errors import EnvironmentFault
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PrepareSettings


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    """A store of three cases of air and soft tissue."""
    cases = []
    for n in range(3):
        path = tmp_path / f"{n}.nii"
        image = np.random.default_rng(n).choice([-1000, 40], (9, 8, 7)).astype(np.int16)
        write_image(path, image, np.eye(4))
        cases.append(Case(str(n), (Source(str(path)),)))
    settings = resolve_pretrain({"preset": "tiny", "model.encoder": "unet"})
    store = Store(tmp_path / "store")
    prepare_index(Index(tuple(cases)), settings, store, workers=0)
    return store


def test_slices_are_shown_as_radiologists_expect_them() -> None:
    volume = np.zeros((3, 3, 3), np.uint8)
    volume[2, 1, 1] = 1  # the patient's right
    volume[1, 2, 1] = 2  # front
    volume[1, 1, 2] = 3  # head
    assert radiological(volume, "axial").tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]
    assert radiological(volume, "coronal").tolist() == [[0, 3, 0], [1, 0, 0], [0, 0, 0]]
    assert radiological(volume, "sagittal").tolist() == [[0, 3, 0], [2, 0, 0], [0, 0, 0]]


def test_the_contact_sheet_has_as_many_pages_as_it_needs(filled: Store, tmp_path: Path) -> None:
    keys = filled.keys()
    pages = contact_sheet(filled, keys, tmp_path / "sheet.png", per_page=2, names=["a", "b", "$\\no$"])
    assert [page.name for page in pages] == ["sheet.png", "sheet-2.png"]
    assert all(page.read_bytes().startswith(b"\x89PNG") for page in pages)
    assert pages[0].stat().st_size > pages[1].stat().st_size
    with pytest.raises(EnvironmentFault):
        contact_sheet(filled, keys, tmp_path / "nowhere" / "sheet.png")


def test_the_table_names_size_and_decisions(filled: Store) -> None:
    keys = filled.keys()
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(describe(filled, names={keys[0]: "first [one]"}, limit=2))
    text = console.export_text()
    for word in ("3 cases", "128 x 128 x 32", "as air does", "2 of 3 cases are shown"):
        assert word in text


def test_a_store_of_a_fine_tuning_shows_greys_and_labels(tmp_path: Path) -> None:
    image, label = np.zeros((24, 24, 24), np.int16), np.zeros((24, 24, 24), np.uint8)
    image[6:18], image[18:], label[8:16, 8:16, 8:16] = 500, 1000, 1
    write_image(tmp_path / "image.nii", image, np.eye(4))
    write_image(tmp_path / "label.nii", label, np.eye(4))
    case = Case("a", (Source(str(tmp_path / "image.nii")),), Source(str(tmp_path / "label.nii")))
    wanted = Wanted(PrepareSettings(fit="pad"), (1, 1, 1), labels=(0, 1), levels="int16")
    store = Store(tmp_path / "store")
    keys = prepare_index(Index((case,)), wanted, store, workers=0).keys
    picture = imread(contact_sheet(store, keys, tmp_path / "sheet.png")[0])[..., :3]
    images, labels = np.split(picture[: len(picture) // 2 * 2], 2)
    assert (abs(images - 0.5) < 0.02).mean() > 0.02, "half of the range is grey"
    assert (labels[:, 300:] == 1).mean() > 0.02, "a label of 1 is seen"
