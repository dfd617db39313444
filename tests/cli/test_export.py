"""``carclf export``: files that reproduce the model's predictions, and a model card; all of them or none."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from carclf.artifacts import Split
from carclf.config import load_config
from carclf.errors import ConfigError, QualityError
from carclf.export import formats
from carclf.export.bundle import export_model
from carclf.export.model_card import escape_markdown, write_model_card
from carclf.runs.model_selection import select_model
from carclf.services.storage import Store
from carclf.training.backbones import build_backbone
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.weights import StartingWeights

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The folder of the champion in two formats, and their differences."""
    folder = tmp_path_factory.mktemp("out")
    return folder, export_model(folder, select_model(store), ["keras", "saved_model"], store)


def test_an_export_has_verified_files_and_a_description(
    store: Store, exported: tuple[Path, dict[str, float]]
) -> None:
    folder, differences = exported
    champion = select_model(store)
    facts = json.loads((folder / "export.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json", "model.keras", "model_card.md", "saved_model"]
    assert set(differences) == {"keras", "saved_model"} and max(differences.values()) < 1e-5
    assert (facts["model"], facts["output"]) == (champion.model.key, "logits")
    assert facts["class_names"] == [str(number) for number in range(10)]
    assert facts["input"] == {"height": 48, "width": 64, "channels": "RGB", "range": [0, 255], "dtype": "float32"}
    assert facts["temperature"] == champion.temperature and facts["differences"] == differences
    assert (folder / "model.keras").read_bytes() == champion.model.path(store, "model.keras").read_bytes()


def test_the_model_card_has_metrics_gate_settings_and_keys(
    store: Store, exported: tuple[Path, dict[str, float]]
) -> None:
    champion, card = select_model(store), (exported[0] / "model_card.md").read_text()
    assert champion.evaluation and champion.decision
    metrics = champion.evaluation.metrics
    low, high = metrics["val_accuracy_low"], metrics["val_accuracy_high"]
    for text in (
        f"| accuracy | {metrics['val_accuracy']:.4f} (95%: {low:.4f} to {high:.4f}) |",
        f"Gate: {escape_markdown(champion.decision.metrics['reason'])}", f"| model | {champion.model.key} |",
        "Normalization is part of the model", "closed set", "| backbone | Tiny |", "| recipe | demo |",
        f"softmax(logits / {champion.temperature:.4f})", "zoom 1,1.2 and its horizontal flip",
    ):
        assert text in card
    assert "None" not in card


@pytest.mark.parametrize(("name", "warning"), [
    ("cc-by-nc-4.0", "cc-by-nc-4.0, which does not permit commercial use"),
    ("fair-noncommercial-research-license", "does not permit commercial use"), ("unknown", "license is unknown"),
    ("other", "license is unknown"), ("apache-2.0", ""), ("", ""),
])
def test_the_model_card_warns_about_the_license_of_the_starting_weights(
    name: str, warning: str, store: Store, exported: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    champion = select_model(store)
    model = champion.model.model_copy(update={"inputs": {"split": champion.model.input("split")},
                                              "metrics": champion.model.metrics | {"weights_license": name}})
    facts = json.loads((exported[0] / "export.json").read_text())
    split = Split.require(store, champion.model.input("split"))
    write_model_card(tmp_path / "card.md", replace(champion, model=model), split, facts, store)
    card = " ".join((tmp_path / "card.md").read_text().split())
    assert (escape_markdown(warning) in card) and ("training started from weights" in card) == bool(warning)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("car_1.jpg", r"car\_1.jpg"),
        ("[a](http://b) ![c](d)", r"\[a\](http:\//b) \!\[c\](d)"),
        ("a\n# b\n| c | <script>&amp;", r"a \# b \| c \| \<script\>\&amp;"),
        ("`x` *y* ~z~ \\", r"\`x\` \*y\* \~z\~ \\"),
    ],
)
def test_markdown_in_names_is_escaped(name: str, escaped: str) -> None:
    assert escape_markdown(name) == escaped


def test_a_file_with_different_predictions_leaves_no_export(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "TOLERANCE", -1.0)  # every file fails
    with pytest.raises(QualityError, match="format keras"):
        export_model(tmp_path / "out", select_model(store), ["keras"], store)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_runtime_cannot_load_raises_quality_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(QualityError, match=r"onnx cannot load model\.onnx.*Remove onnx"):
        formats.check_exported("onnx", tmp_path / "model.onnx", np.zeros((1, 8, 8, 3)), np.zeros((1, 2)))


def test_a_folder_that_is_not_empty_is_not_changed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ConfigError, match="--to"):
        export_model(tmp_path, select_model(store), ["keras"], store)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unknown_format_raises_config_error_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'pickle'.*--format"):
        export_model(tmp_path / "out", select_model(store), ["keras", "pickle"], store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_a_network_predicts_the_same_in_other_runtimes(name: str, tmp_path: Path) -> None:
    if missing := [module for module in formats.FORMATS[name].modules if importlib.util.find_spec(module) is None]:
        with pytest.raises(ConfigError, match=f"{name}.*pip install"):
            formats.require_formats([name])
        pytest.skip(f"needs {', '.join(missing)}")
    keras.utils.set_random_seed(0)
    backbone = build_backbone("MobileNetV3Small", StartingWeights("none"), 64, 64)
    network = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 5, load_config("demo").model))
    images = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.float32)
    logits = np.asarray(network.predict_on_batch(images), float)
    path = formats.export_network(name, network, (64, 64), tmp_path, tmp_path)
    assert formats.check_exported(name, path, images, logits) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="needs tf2onnx")
def test_an_onnx_file_contains_the_constants_of_a_normalization(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.float32)
    path = formats.export_network("onnx", network, (8, 8), tmp_path, tmp_path)
    assert formats.check_exported("onnx", path, images, np.asarray(network(images), float)) < 1e-4
