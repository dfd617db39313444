"""Runs that start from the champion's backbone or from a checkpoint."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt
from small_runs import reload_in_this_process

from carclf.artifacts import Model, Provenance, Split, StageContext, build
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Run
from carclf.services.storage import open_store
from carclf.stages import train_head
from carclf.stages.chain import STAGES
from carclf.training.backbones import backbone_layers
from carclf.training.warm_start import champion_warm_start
from carclf.training.weights import starting_weights

pytestmark = pytest.mark.integration

SMALL = {
    "data.source": "cars", "head.epochs": 2, "fine_tune.epochs": 1, "gate.threshold": 0, "submit.enabled": False,
    "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5, "gate.min_recall": 0,
    "gate.max_calibration_error": 1, "audit.enabled": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=100, num_test=10)
    with DemoServer(open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))) as running:
        yield running


@pytest.fixture(autouse=True)
def kaggle(server, monkeypatch):
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")


def run_to(last, store, name, **settings):
    run = Run.start_or_resume(name, store, "demo", load_config("demo", SMALL | settings))
    names = list(STAGES)
    return {stage: run.run_stage(stage) for stage in names[: names.index(last) + 1]}


def backbone_weights(store, key):
    path = Model.find(store, key).path(store, "model.keras")
    return [weight for layer in backbone_layers(keras.models.load_model(path, compile=False))
            for weight in layer.get_weights()]


@pytest.fixture(scope="module")
def promoted(server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        patch.setenv("KAGGLE_API_TOKEN", "demo-key")
        reload_in_this_process(patch)
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = open_store(str(tmp_path_factory.mktemp("store")))
        return store, run_to("promote", store, "first")


def test_the_head_is_trained_on_the_champions_backbone(promoted):
    store, first = promoted
    warm = run_to("train_head", store, "warm", **{"model.weights": "champion", "seed": 1})["train_head"]
    pairs = zip(backbone_weights(store, warm.key), backbone_weights(store, first["fine_tune"].key), strict=True)
    assert not warm.reused and all(np.array_equal(weight, other) for weight, other in pairs)


def test_unchanged_data_and_settings_reuse_the_champions_run(promoted):
    store, _ = promoted
    again = run_to("promote", store, "again", **{"model.weights": "champion"})
    assert all(result.reused for result in again.values())


def test_changed_fine_tuning_settings_start_from_the_champion(promoted):
    store, first = promoted
    warm = run_to("train_head", store, "rate", **{"model.weights": "champion", "fine_tune.learning_rate": 5e-4})
    pairs = zip(backbone_weights(store, warm["train_head"].key), backbone_weights(store, first["fine_tune"].key),
                strict=True)
    assert not warm["train_head"].reused and all(np.array_equal(weight, other) for weight, other in pairs)


def test_a_new_version_of_train_head_starts_from_the_champion_with_a_new_key(promoted, monkeypatch):
    store, first = promoted
    monkeypatch.setattr("carclf.stages.train_head.VERSION", 1000)
    warm = run_to("train_head", store, "newer", **{"model.weights": "champion"})["train_head"]
    plain = run_to("train_head", store, "newer-plain")["train_head"]
    assert Model.find(store, warm.key).settings["model"]["weights"] == f"champion:{first['fine_tune'].key}"
    assert warm.key != plain.key and not plain.reused


def test_another_backbone_raises_config_error(promoted):
    store, _ = promoted
    with pytest.raises(ConfigError, match=r"Tiny, not MobileNetV3Small.*model\.backbone"):
        run_to("train_head", store, "other", **{"model.weights": "champion", "model.backbone": "MobileNetV3Small"})


def test_another_image_size_raises_config_error_for_a_network_of_fixed_size(promoted):
    store, _ = promoted
    with pytest.raises(ConfigError, match=r"48x64 px.*model\.image_height"):
        run_to("train_head", store, "large", **{"model.weights": "champion", "model.image_width": 96})


def test_a_store_without_a_champion_raises_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.weights=imagenet"):
        run_to("train_head", open_store(str(tmp_path)), "none", **{"model.weights": "champion"})


@pytest.mark.acceptance
def test_a_checkpoint_is_resolved_once_when_the_stage_starts(promoted, tmp_path, monkeypatch):
    """Its config.json is deleted right after that, as if a server became unreachable."""
    golden = Path(__file__).parent / "checkpoint_goldens" / "convnext"
    path = Path(shutil.copytree(golden, tmp_path / "checkpoint")) / "model.safetensors"
    resolved = []

    def resolve(weights):
        resolved.append(starting_weights(weights))
        path.with_name("config.json").unlink()
        return resolved[-1]

    monkeypatch.setattr(train_head, "starting_weights", resolve)
    monkeypatch.setattr(keras.applications, "ConvNeXtTiny", lambda **options: ConvNeXt(
        depths=(1, 1, 2, 1), projection_dims=(8, 16, 24, 32), name="convnext_tiny", **options))
    settings = {"model.backbone": "ConvNeXtTiny", "model.weights": str(path), "audit.enabled": False}
    model = Model.find(promoted[0], run_to("train_head", promoted[0], "checkpoint", **settings)["train_head"].key)
    assert len(resolved) == 1 and model.settings["model"]["weights"] == resolved[0].identity
    assert model.metrics["weights_license"] == "apache-2.0"


def build_split(store, name, champion=None):
    inputs = {"dataset": name} | ({"champion": champion.key} if champion else {})
    return build(Split, lambda folder: {}, Provenance(1, inputs, {}), store)[0]


def promote(store, split):
    settings = {"model": load_config("demo").model.model_dump()}
    head, _ = build(Model, lambda folder: {}, Provenance(1, {"split": split.key}, settings), store)
    model, _ = build(Model, lambda folder: {}, Provenance(1, {"split": split.key, "model": head.key}, {}), store)
    event = {"action": "promoted", "time": "", "model": model.key, "decision": ""}
    store.write("champion.json", json.dumps({"champion": event, "threshold": 0, "history": [event]}).encode())
    return model


def test_a_split_without_the_champion_raises_data_error(tmp_path):
    """The champion's training images could be among the validation images of such a split."""
    store = open_store(str(tmp_path))
    first = build_split(store, "first")
    promote(store, first)
    split, other_split = build_split(store, "split", first), build_split(store, "other", first)

    def start_model(split):
        config = load_config("demo", {"model.weights": "champion"})
        settings = {"model": config.model.model_dump(), "salt": ""}
        head = Provenance(1, {"archive": "a", "split": split.key}, settings)
        return champion_warm_start(head, StageContext(store, config)).model

    start_model(split)
    champion = promote(store, other_split)  # another run wins before this one trains
    with pytest.raises(DataError, match=f"{champion.key}.*split"):
        start_model(split)
    repeated = build_split(store, "split", other_split)
    assert start_model(repeated) == start_model(other_split) == champion
    assert promote(store, first) == start_model(repeated)  # after a rollback: the split also descends from the first
    with pytest.raises(DataError, match="split"):
        start_model(build_split(store, "before any champion"))
