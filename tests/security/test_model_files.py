"""Files of models, features and checkpoints that would execute code when they are read."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gate_candidates import build_artifact

from carclf.artifacts import Features, Model, Provenance
from carclf.cli.app import main
from carclf.errors import DataError, QualityError
from carclf.inference.runtimes import predict_logits
from carclf.networks import load_network
from carclf.services.storage import Store, init_store
from carclf.training.checkpoints import Checkpoints

METRICS = {"class_names": ["0", "1"], "image_height": 8, "image_width": 8}
Files = dict[str, bytes]


class MakeFolder:
    """A pickle of this object creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def network() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(keras.layers.Flatten()(inputs)))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The members of an intact model file."""
    path = tmp_path_factory.mktemp("intact") / "model.keras"
    network().save(path)
    assert len(load_network(path).layers) == 3
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A folder that the files of these tests would create."""
    return tmp_path / "executed"


def write(path: Path, members: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_layer(members: Files, **fields: Any) -> Files:
    """Return the members with these fields in the configuration of the second layer."""
    content = json.loads(members["config.json"])
    layer = content["config"]["layers"][1]
    layer.update({"registered_name": None} | fields)
    return members | {"config.json": json.dumps(content).encode()}


def lambda_layer(folder: Path, marker: Path) -> Path:
    inputs = keras.Input((8, 8, 3))
    path = str(marker)
    layer = keras.layers.Lambda(lambda pixels: __import__("os").makedirs(path, exist_ok=True) or pixels)
    keras.Model(inputs, layer(inputs)).save(folder / "lambda.keras")
    marker.rmdir()  # created by the first call, above
    return folder / "lambda.keras"


def edit_weights(members: Files, edit: Callable[[h5py.File], None]) -> Files:
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "r+") as weights:
        del weights["layers/dense/vars/0"]
        edit(weights)
    return members | {"model.weights.h5": buffer.getvalue()}


def test_a_lambda_layer_is_an_error_that_names_the_file(tmp_path: Path, marker: Path) -> None:
    path = lambda_layer(tmp_path, marker)
    with pytest.raises(DataError, match=f"{path}.*Lambda"):
        load_network(path)
    assert not marker.exists()


@pytest.mark.parametrize("layer", [
    {"module": "os", "class_name": "system", "config": {"command": "mkdir MARKER"}},
    {"module": "subprocess", "class_name": "Popen", "config": {"args": ["mkdir", "MARKER"]}},
    {"module": "foreign", "class_name": "Layer", "config": {}, "registered_name": "foreign>Layer"},
    {"module": "keras.utils", "class_name": "get_file", "config": {"fname": "x", "origin": "file:///etc/hostname"}},
    {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x", "call_endpoint": "serve"}},
    {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": {"class_name": "__module__"}}},
    {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/hostname"}},
    {"module": "keras.layers", "class_name": "Activation", "config": {"activation": {
        "module": "builtins", "class_name": "function", "config": "eval", "registered_name": "eval"}}},
    {"module": "keras.layers", "class_name": "Activation", "config": {"activation": {
        "class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}}},
], ids=lambda layer: f"{layer['module']}.{layer['class_name']}")
def test_objects_that_are_not_layers_of_keras_are_rejected(
    members: Files, tmp_path: Path, marker: Path, layer: dict[str, Any]
) -> None:
    fields = json.loads(json.dumps(layer).replace("MARKER", str(marker)))
    path = write(tmp_path / "model.keras", with_layer(members, **fields))
    with pytest.raises(DataError, match=str(path)):
        load_network(path)
    assert not marker.exists()


def test_weights_outside_the_file_are_rejected(members: Files, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 192 * 2))
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.zeros((192, 2), np.float32)
    name, external = "layers/dense/vars/0", [(secret, 0, 1536)]
    edits = [
        lambda weights: weights.create_dataset(name, (192, 2), "float32", external=external),
        lambda weights: weights.__setitem__(name, h5py.ExternalLink(other, "/secret")),
    ]
    for number, edit in enumerate(edits):
        path = write(tmp_path / f"{number}.keras", edit_weights(members, edit))
        with pytest.raises(DataError, match=str(path)):
            load_network(path)


def test_pickled_weights_and_pickled_models_are_rejected(members: Files, tmp_path: Path, marker: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, layers=np.array([MakeFolder(marker)], object))
    del (npz := dict(members))["model.weights.h5"]
    write(tmp_path / "npz.keras", npz | {"model.weights.npz": buffer.getvalue()})
    (tmp_path / "pickle.keras").write_bytes(pickle.dumps(MakeFolder(marker)))
    (tmp_path / "cut.keras").write_bytes(write(tmp_path / "whole", members).read_bytes()[:2000])
    for name in ("npz.keras", "pickle.keras", "cut.keras"):
        with pytest.raises(DataError, match=name):
            load_network(tmp_path / name)
    assert not marker.exists()


def test_a_command_reports_the_file_in_one_line(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = init_store(str(tmp_path / "store"))
    content = lambda_layer(tmp_path, marker).read_bytes()
    model = build_artifact(store, Model, Provenance(1, {}, {}), METRICS, {"model.keras": content})
    (tmp_path / "a.jpg").write_bytes(b"")
    command = ["carclf", "predict", str(tmp_path / "a.jpg"), "--store", store.url, "--model", model.key]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 65
    assert "model.keras" in capsys.readouterr().err.splitlines()[-1]
    assert not marker.exists()


def test_pickled_features_are_rejected(tmp_path: Path, marker: Path) -> None:
    store = init_store(str(tmp_path / "store"))
    buffer = io.BytesIO()
    np.save(buffer, np.array([MakeFolder(marker)], object))
    for content in (buffer.getvalue(), pickle.dumps(MakeFolder(marker)), b"\x93NUMPY"):
        files = {"features.npy": content}
        features = build_artifact(store, Features, Provenance(1, {}, {"content": content.hex()}), {}, files)
        with pytest.raises(DataError, match=r"features\.npy"):
            features.array(store, "features.npy")
    assert not marker.exists()


def test_a_checkpoint_with_pickled_objects_is_ignored(tmp_path: Path, marker: Path) -> None:
    store: Store = init_store(str(tmp_path / "store"))
    checkpoints = Checkpoints(store, "key")
    checkpoints.save([np.arange(3)], [], {"step": 1})
    checkpoints.save([np.array([MakeFolder(marker)], object)], [], {"step": 2})
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded[2] == {"step": 1}
    assert not marker.exists()


def test_a_table_with_a_pickled_type_executes_nothing(tmp_path: Path, marker: Path) -> None:
    metadata = {"ARROW:extension:name": "arrow.py_extension_type",
                "ARROW:extension:metadata": pickle.dumps(MakeFolder(marker))}
    schema = pa.schema([pa.field("id", pa.string(), metadata=metadata)])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}, schema=schema), buffer)
    store = init_store(str(tmp_path / "store"))
    features = build_artifact(store, Features, Provenance(1, {}, {}), {}, {"table.parquet": buffer.getvalue()})
    assert features.table(store, "table.parquet")["id"].tolist() == ["a"]
    assert not marker.exists()


def test_the_process_that_checks_a_saved_model_executes_none_of_its_code(tmp_path: Path, marker: Path) -> None:
    path = lambda_layer(tmp_path, marker)
    with pytest.raises(QualityError, match=r"lambda\.keras"):
        predict_logits("keras", path, np.zeros((1, 8, 8, 3)))
    assert not marker.exists()
