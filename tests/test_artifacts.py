"""Artifacts that several workers make at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from carclf.artifacts import Metrics, Model, Provenance, build
from carclf.errors import DataError
from carclf.services.storage import Store, open_store


def url(kind: str, tmp_path: Path) -> str:
    if kind == "folder":
        return str(tmp_path / "store")
    boto3.client("s3").create_bucket(Bucket=tmp_path.name.replace("_", "-"))
    return f"s3://{tmp_path.name.replace('_', '-')}/store"


def built(store: Store, content: bytes, both: threading.Barrier) -> tuple[Model, bool]:
    def make(folder: Path) -> Metrics:
        (folder / "model.keras").write_bytes(content)
        both.wait(30)  # nobody found it, and both upload
        return {"worker": int(content)}

    return build(Model, make, Provenance(1, {"split": "s"}, {}), store)


@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.parametrize("attempt", range(5))
def test_two_workers_that_make_an_artifact_at_once_leave_a_whole_one_and_go_on_with_the_same(
    kind: str, attempt: int, tmp_path: Path, aws: None
) -> None:
    place, both, contents = url(kind, tmp_path), threading.Barrier(2), [b"0", b"1"]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda content: built(open_store(place), content, both), contents))
    store = open_store(place)
    [model, _], _ = found
    assert found == [(model, False)] * 2 and Model.find(store, model.key) == model
    assert model.path(store, "model.keras").read_bytes() == contents[model.metrics["worker"]]
    assert len(list(store.list_keys(f"models/{model.key}/"))) == 3
    assert built(store, b"", both) == (model, True)


def test_a_files_own_name_is_the_last_part_of_its_key(tmp_path: Path) -> None:
    model, _ = built(open_store(str(tmp_path)), b"7", threading.Barrier(1))
    file = model.files["model.keras"]
    assert file.key == f"models/{model.key}/{file.sha256[:8]}/model.keras"


@pytest.mark.parametrize("content", [b'{"key": ', b"[]", b'{"key": "k"}', b"\xff"])
def test_a_damaged_manifest_is_told_with_its_key_and_a_mend(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    model, _ = built(store, b"7", threading.Barrier(1))
    store.write(f"models/{model.key}/manifest.json", content)
    with pytest.raises(DataError) as told:
        Model.find(store, model.key)
    assert str(told.value) == (
        f"models/{model.key}/manifest.json in {store.url} is damaged: it is no manifest of a Model. Restore it from a "
        "backup, or run again with force (--set force=true) to make it anew.")
