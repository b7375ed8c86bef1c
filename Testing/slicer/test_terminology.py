"""Names of organs as data sets write them, and the codes they get."""

from __future__ import annotations

import pytest

from VoCoSlicerLib.terminology import _SIDES, _TABLE, termOf


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [
        ("liver", "10200004", None),
        ("Right Kidney", "64033007", "Right"),
        ("kidney_left", "64033007", "Left"),
        ("adrenal_gland_right", "23451007", "Right"),
        ("postcava", "64131007", None),
        ("oesophagus", "32849002", None),
        ("lung_upper_lobe_left", "45653009", "Left"),
        ("vertebrae_L3", "36470004", None),
        ("L3 vertebra", "36470004", None),
        ("rib_left_4", "113197003", "Left"),
        ("heart_atrium_left", "82471001", None),
        ("tumour", "108369006", None),
        ("spine", "421060004", None),
        ("vena_cava", "35532006", None),
        ("arota", "15825003", None),
        ("rkid", "64033007", "Right"),
        ("hip_left", "29836001", "Left"),
        ("coronary_arteries", "41801008", None),
        ("Non-enhancing tumor", "108369006", None),
        ("lad", None, None),
        ("L", None, None),
        ("left atrium right", None, None),
        ("prostate/uterus", None, None),
        ("portal vein and splenic vein", None, None),
        ("class 1", None, None),
    ],
)
def test_terms_of_names(name, code, side):
    term = termOf(name)
    assert (None if term is None else term.kind[0]) == code
    assert term is None or (term.side[1] if term.side else None) == side


def test_every_code_means_what_dicom_says():
    """Against pydicom's own dictionary of the codes that DICOM uses."""
    from pydicom.sr._concepts_dict import concepts

    meanings: dict[str, set[str]] = {}
    for found in concepts["SCT"].values():
        for code, (meaning, _) in found.items():
            meanings.setdefault(code, set()).add(meaning.casefold())
    for name, (_, (code, meaning)) in _TABLE.items():
        assert any(meaning.casefold() in theirs for theirs in meanings[code]), (name, code, meanings[code])
    for code, meaning in _SIDES.values():
        assert meaning.casefold() in meanings[code]
