"""What the module reads of a model before it is used."""

from __future__ import annotations

import json
import struct

import pytest

from VoCoCore.errors import DataError
from VoCoSlicerLib.model_info import readModel


def weightsFile(path, metadata):
    """A safetensors file without tensors."""
    head = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


def card(**changed):
    classes = [{"name": "background", "values": [0], "colour": [0, 0, 0]}]
    classes.append({"name": "liver", "values": [1], "colour": [255, 0, 0]})
    return {
        "task": "segmentation",
        "encoder": "unet",
        "classes": classes,
        "channels": ["t1", "t2"],
        **changed,
    }


def test_a_models_card_is_read_from_its_head(tmp_path):
    facts = {"cases": "12", "dice": "0.91"}
    file = weightsFile(tmp_path / "model.safetensors", {"card": json.dumps(card(facts=facts))})
    model = readModel(file)
    assert (model.task, model.labels, model.channels) == ("segmentation", ("liver",), ("t1", "t2"))
    assert model.facts == facts and model.name == "model" and model.files == (file,)


def test_the_card_is_the_one_that_fine_tuning_writes(tmp_path):
    from VoCoCore.models.card import ModelCard, OutputClass

    classes = (OutputClass("well", (0,), (0, 0, 0)), OutputClass("sick", (1,), (9, 9, 9)))
    made_card = ModelCard("classification", "unet", 16, (32, 32, 32), classes, "softmax", {})
    model = readModel(weightsFile(tmp_path / "m.safetensors", made_card.to_metadata()))
    assert model.labels == ("well", "sick") and model.channels == ("image",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no file of weights"),
        (b"\xff" * 20, "no file of weights"),
        (struct.pack("<Q", 2) + b"{}", "no file of weights"),
        (struct.pack("<Q", 40) + b'{"__metadata__":{"what":"an encoder"}}   ', "says nothing of classes"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "no file of weights"),
        (struct.pack("<Q", 34) + b'{"__metadata__":{"card":["deep"]}}', "damaged"),
    ],
)
def test_what_is_no_model_is_refused_in_words(tmp_path, content, words):
    file = tmp_path / "strange.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        readModel(file)
    with pytest.raises(DataError, match="there is no"):
        readModel(tmp_path / "gone")
    with pytest.raises(DataError, match="neither a run nor a folder of folds"):
        readModel(tmp_path)
