"""carclf export: files that answer as the model does, a card, and all of it or nothing."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.errors import ConfigError, QualityError
from carclf.export import formats as exporting
from carclf.export.bundle import export_model
from carclf.export.model_card import escape_markdown
from carclf.runs.model_selection import select_model
from carclf.services.storage import Store
from carclf.training.backbones import build_backbone
from carclf.training.heads import build_head, join_backbone_and_head


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The champion in two formats, and their differences."""
    folder = tmp_path_factory.mktemp("out")
    return folder, export_model(folder, select_model(store), ["keras", "saved_model"], store)


def test_an_export_has_checked_files_and_what_a_program_must_know(
    store: Store, exported: tuple[Path, dict[str, float]]
) -> None:
    (folder, differences), chosen = exported, select_model(store)
    told = json.loads((folder / "export.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json", "model.keras", "model_card.md", "saved_model"]
    assert set(differences) == {"keras", "saved_model"} and max(differences.values()) < 1e-5
    assert (told["model"], told["output"], told["class_names"]) == (chosen.model.key, "logits", list(range(10)))
    assert told["input"] == {"height": 48, "width": 64, "channels": "RGB", "range": [0, 255], "dtype": "float32"}
    assert told["temperature"] == chosen.temperature and told["differences"] == differences
    assert (folder / "model.keras").read_bytes() == chosen.model.path(store, "model.keras").read_bytes()


def test_the_card_tells_data_figures_gate_and_keys(store: Store, exported: tuple[Path, dict[str, float]]) -> None:
    chosen, card = select_model(store), (exported[0] / "model_card.md").read_text()
    assert chosen.evaluation and chosen.decision
    metrics = chosen.evaluation.metrics
    for text in (
        f"| accuracy | {metrics['val_accuracy']:.4f} (95%: {metrics['low']:.4f} to {metrics['high']:.4f}) |",
        f"The gate: {escape_markdown(chosen.decision.metrics['reason'])}", f"| model | {chosen.model.key} |",
        "Normalisation is part of the model", "closed set", "| backbone | Tiny |", "| recipe | demo |",
        f"softmax(logits / {chosen.temperature:.4f})", "zoom 1,1.2 and its mirror image",
    ):
        assert text in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("car_1.jpg", r"car\_1.jpg"),
        ("[a](http://b) ![c](d)", r"\[a\](http:\//b) \!\[c\](d)"),
        ("a\n# b\n| c | <script>&amp;", r"a \# b \| c \| \<script\>\&amp;"),
        ("`x` *y* ~z~ \\", r"\`x\` \*y\* \~z\~ \\"),
    ],
)
def test_names_are_no_markdown(name: str, written: str) -> None:
    assert escape_markdown(name) == written


def test_a_file_that_answers_otherwise_leaves_nothing_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)  # no file is as good as that
    with pytest.raises(QualityError, match="The model written as keras answers otherwise"):
        export_model(tmp_path / "out", select_model(store), ["keras"], store)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_runtime_cannot_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(QualityError, match="written as onnx, and its runtime cannot use it: "):
        exporting.check_exported("onnx", tmp_path / "model.onnx", np.zeros((1, 8, 8, 3)), np.zeros((1, 2)))


def test_a_folder_that_holds_something_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export_model(tmp_path, select_model(store), ["keras"], store)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_an_unknown_format_is_told_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no format 'pickle'"):
        export_model(tmp_path / "out", select_model(store), ["keras", "pickle"], store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_a_network_of_the_zoo_answers_the_same_in_other_runtimes(name: str, tmp_path: Path) -> None:
    if missing := [module for module in exporting.FORMATS[name].modules if importlib.util.find_spec(module) is None]:
        with pytest.raises(ConfigError, match=f"The format {name} needs packages that are not here: pip install"):
            exporting.require_formats([name])
        pytest.skip(f"needs {', '.join(missing)}")
    keras.utils.set_random_seed(0)
    backbone = build_backbone("MobileNetV3Small", "none", 64, 64)
    network = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 5, load_config("demo").model))
    pictures = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.float32)
    logits = np.asarray(network.predict_on_batch(pictures), float)
    path = exporting.export_network(name, network, (64, 64), tmp_path, tmp_path)
    assert exporting.check_exported(name, path, pictures, logits) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="needs tf2onnx")
def test_the_constants_of_a_normalization_are_part_of_an_onnx_file(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    pictures = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.float32)
    path = exporting.export_network("onnx", network, (8, 8), tmp_path, tmp_path)
    assert exporting.check_exported("onnx", path, pictures, np.asarray(network(pictures), float)) < 1e-4
