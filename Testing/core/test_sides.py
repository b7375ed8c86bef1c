"""Labels with sides: which names tell left from right, and that then no view and no crop is mirrored along x."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from made_models import card_of

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.data.sides import sides
from VoCoCore.models.card import OutputClass
from VoCoCore.models.model_files import save_model
from VoCoCore.models.networks import build_network
from VoCoCore.settings import PrepareSettings
from VoCoCore.training.crop_plan import flips_for

BTCV = ["spleen", "rkid", "lkid", "gall", "liver", "aorta", "IVC", "rad", "lad"]
PLAIN = ["leftover", "brightness", "copyright", "upright", "liver", "lesion", "colon", "linkage"]


@pytest.mark.parametrize(
    "names",
    [
        BTCV,
        ["kidney_left"],
        ["lung_upper_lobe_left"],
        ["Left ventricle"],
        ["leftKidney"],
        ["leftventricle"],
        ["left2"],
        ["Parotid_L"],
        ["R_kidney"],
        ["Kidney (R)"],
        ["KidneyR"],
        ["LKidney"],
        ["optic nerve lt"],
        ["rechte Niere"],
        ["Niere links"],
        ["rein gauche"],
        ["rein droit"],
        ["rene destro"],
        ["riñón izquierdo"],
        ["ren dexter"],
        ["LV", "RV"],
        ["kidneyleft", "kidneyright"],
        ["ren_sin", "ren_dex"],
        ["rene sx", "rene dx"],
        ["label 1", "label 2"],
    ],
)
def test_these_names_have_sides(names) -> None:
    assert sides(["background", *names])
    assert flips_for(["background", *names])[0] == (0, 0, 0)


def test_these_names_have_none() -> None:
    names = [
        "background",
        *PLAIN,
        "IVC",
        "vertebrae_L1",
        "vertebrae_L2",
        "bone destruction",
        "paroi de l'aorte",
        "label 1",
        "rkid",
    ]
    assert sides(names) == ""
    assert flips_for(names)[0] == (0.2, 0, 0)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "case.nii.gz"
    write_image(path, np.random.default_rng(0).random((36, 34, 33), np.float32), np.eye(4))
    return path


@pytest.fixture
def predicted(image, tmp_path, capsys):
    """Predict with a random network for ``names`` and options; probabilities (X, Y, Z, K), and what was said."""

    def predict(names, *options):
        classes = [OutputClass(name, (value,), (0, 9, 9)) for value, name in enumerate(names)]
        plain = PrepareSettings().with_values({"intensity": "none", "foreground": 0.0, "fit": "pad"})
        card = card_of(
            outputs=len(names),
            window=(32, 32, 32),
            classes=tuple(classes),
            prepare=plain.to_dict(),
            channels=("image",),
        )
        torch.manual_seed(0)
        model, out = tmp_path / "model.safetensors", tmp_path / "-".join(("out", *names, *options))
        save_model(build_network(card), card, model)
        words = ["predict", "--model", str(model), str(image), "-o", str(out), "--probabilities", *options]
        assert main(words) == 0
        found = np.asarray(nib.load(out / "probabilities" / "case.nii.gz").dataobj)
        return found, capsys.readouterr().out

    return predict


def test_mirrored_views_leave_left_and_right_in_place_where_labels_have_sides(predicted) -> None:
    sided = ["background", "rkid", "lkid"]
    found, said = predicted(sided, "--mirror")
    assert "mirrored along y and z, not from left to right: 'lkid' and 'rkid' look like two sides" in said
    np.testing.assert_array_equal(found, predicted(sided, "--mirror=yz")[0])
    asked, said = predicted(sided, "--mirror=xyz")
    assert "warning: --mirror xyz takes left for right along x" in said and not np.array_equal(found, asked)


def test_mirrored_views_are_eight_where_no_label_has_a_side(predicted) -> None:
    plain = ["background", "liver", "spleen"]
    found, said = predicted(plain, "--mirror")
    assert "warning" not in said and "not from left" not in said
    np.testing.assert_array_equal(found, predicted(plain, "--mirror=xyz")[0])
