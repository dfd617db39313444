"""Artifacts: reuse, failures, damage, and several workers that build the same artifact at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pandas as pd
import pytest
from gate_candidates import build_artifact, build_split

from carclf.artifacts import Dataset, Metrics, Model, Provenance, Split, build
from carclf.errors import DamagedArtifactError, DataError
from carclf.services.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def store_url(kind: str, tmp_path: Path) -> str:
    if kind == "folder":
        return str(tmp_path / "store")
    bucket = tmp_path.name.replace("_", "-")
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/store"


def write_model(content: bytes, barrier: threading.Barrier | None = None) -> Callable[[Path], Metrics]:
    def make(folder: Path) -> Metrics:
        (folder / "model.keras").write_bytes(content)
        if barrier:
            barrier.wait(120)  # both workers missed the artifact, and both upload
        return {"worker": int(content)}

    return make


def build_model(store: Store, content: bytes = b"7", barrier: threading.Barrier | None = None) -> tuple[Model, bool]:
    return build(Model, write_model(content, barrier), Provenance(1, {"split": "s"}, {}), store)


def test_an_artifact_is_built_once_per_provenance(store: Store) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> Metrics:
        calls.append(folder)
        (folder / "split.parquet").write_bytes(b"content")
        return {"num_train": len(calls)}

    def build_with(setting: int) -> tuple[Split, bool]:
        return build(Split, make, Provenance(1, {"dataset": "d"}, {"setting": setting}), store)

    first, first_reused = build_with(1)
    second, second_reused = build_with(1)
    other, _ = build_with(2)
    assert (first_reused, second_reused, len(calls)) == (False, True, 2)
    assert first == second and first.key != other.key
    assert first.path(store, "split.parquet").read_bytes() == b"content"


def test_a_failed_build_leaves_nothing_in_the_store(store: Store) -> None:
    def fail(folder: Path) -> Metrics:
        (folder / "split.parquet").write_bytes(b"half")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        build(Split, fail, Provenance(1, {}, {}), store)
    assert list(store.list_keys()) == []


@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.parametrize("attempt", range(5))
def test_two_workers_that_build_an_artifact_at_once_return_the_same(
    kind: str, attempt: int, tmp_path: Path, aws: None
) -> None:
    url = store_url(kind, tmp_path)
    barrier = threading.Barrier(2)
    contents = [b"0", b"1"]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda content: build_model(open_store(url), content, barrier), contents))
    store = open_store(url)
    model = results[0][0]
    assert results == [(model, False)] * 2 and Model.find(store, model.key) == model
    assert model.path(store, "model.keras").read_bytes() == contents[int(model.number("worker"))]
    assert len(list(store.list_keys(f"models/{model.key}/"))) == 3
    assert build_model(store, b"") == (model, True)


def test_a_files_key_ends_with_its_name(store: Store) -> None:
    model, _ = build_model(store)
    file = model.files["model.keras"]
    assert file.key == f"models/{model.key}/{file.sha256[:8]}/model.keras"


def test_a_damaged_file_raises_data_error(store: Store) -> None:
    model, _ = build_model(store)
    store.write(model.files["model.keras"].key, b"damaged")
    with pytest.raises(DamagedArtifactError, match=model.files["model.keras"].key) as error:
        model.path(store, "model.keras")
    assert error.value.path == f"models/{model.key}"


@pytest.mark.parametrize("content", [b'{"key": ', b"[]", b'{"key": "k"}', b"\xff"])
def test_a_damaged_manifest_raises_data_error(store: Store, content: bytes) -> None:
    model, _ = build_model(store)
    store.write(f"models/{model.key}/manifest.json", content)
    with pytest.raises(DamagedArtifactError, match=store.url) as error:
        Model.find(store, model.key)
    assert error.value.path == f"models/{model.key}"


@pytest.mark.parametrize("content", [b'{"key": ', b"null"])
def test_a_damaged_manifest_is_rebuilt_under_its_key(store: Store, content: bytes) -> None:
    model, _ = build_model(store)
    store.write(Model.manifest_path(model.key), content)
    rebuilt, reused = build_model(store)
    assert (rebuilt.key, rebuilt.files, reused) == (model.key, model.files, False)
    assert build_model(store) == (rebuilt, True)


def test_require_raises_data_error_if_the_artifact_is_missing(store: Store) -> None:
    with pytest.raises(DataError, match="models/missing"):
        Model.require(store, "missing")


def test_a_metric_that_is_not_a_number_raises_data_error(store: Store) -> None:
    model = build_artifact(store, Model, Provenance(1, {}, {}), {"image_height": 48, "image_width": 64, "name": "a"})
    assert model.image_size == (48, 64) and model.number("image_width") == 64.0
    for name in ("name", "missing"):
        with pytest.raises(DataError, match=f"'{name}'"):
            model.number(name)


def test_a_model_with_ensemble_json_is_an_ensemble(store: Store) -> None:
    files = {"ensemble.json": b"{}"}
    assert build_artifact(store, Model, Provenance(1, {}, {"name": "ensemble"}), {}, files).is_ensemble
    assert not build_artifact(store, Model, Provenance(1, {}, {})).is_ensemble


def test_tables_of_artifacts_are_data_frames(store: Store) -> None:
    split = build_split(store, 6)
    assert split.class_names == ["0", "1", "2"]
    assert split.rows(store)["id"].tolist() == [f"{number}.jpg" for number in range(6)]
    pd.testing.assert_frame_equal(split.history(store), split.rows(store))
    index = pd.DataFrame({"id": ["a.jpg"]})
    dataset = build_artifact(store, Dataset, Provenance(1, {}, {}), {}, {"index.parquet": index})
    pd.testing.assert_frame_equal(dataset.index(store), index)
