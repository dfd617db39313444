"""Identities of pretrained weights: the content of the file, wherever it is."""

from pathlib import Path

import boto3
import pytest

from carclf.services.storage import open_store
from carclf.training.weights import starting_weights


def test_weights_are_identified_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("first.h5", b"one"), ("copy.h5", b"one"), ("other.h5", b"two")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "first.h5"))
    names = ("$WEIGHTS", *(str(tmp_path / name) for name in ("first.h5", "copy.h5", "other.h5")))
    variable, first, copy, other = (starting_weights(name).identity for name in names)
    assert first == copy == variable != other


def test_weights_at_a_store_url_are_identified_by_their_current_content(tmp_path: Path, aws: None) -> None:
    boto3.client("s3").create_bucket(Bucket="weights")
    path, identities = tmp_path / "w.h5", []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        open_store("s3://weights/nets").upload(path, "w.h5")
        identity = starting_weights("s3://weights/nets/w.h5").identity
        assert identity == starting_weights(str(path)).identity
        identities.append(identity)
    assert identities[0] != identities[1]
