"""The seeded loss curves of all recipes stay what they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden import FILE, RECIPES, curves

# Processors add float32 in other orders; over 20 steps that grows to a few units of the fourth digit. A changed
# equation, draw or augmentation shows in the first or second.
TOLERANCE = 2e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_twenty_steps_give_the_golden_curves(recipe, small_cohort, tmp_path):
    golden = json.loads(FILE.read_text())[recipe]
    made = curves(small_cohort, recipe, tmp_path / "run")
    assert made.keys() == golden.keys() and len(golden["loss"]) == 20
    for name, curve in golden.items():
        np.testing.assert_allclose(made[name], curve, rtol=TOLERANCE, atol=1e-5, err_msg=name)
    spread = max(golden["loss"]) - min(golden["loss"])
    assert spread > 20 * TOLERANCE * max(golden["loss"]), "a flat curve would show nothing"
