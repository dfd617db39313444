"""``carclf store check``: damage is found everywhere, and rebuilt under the same key where that is possible."""

from pathlib import Path

import pytest
from small_runs import run_to
from typer.testing import CliRunner

from carclf.artifacts import KINDS, Artifact, Model, Split
from carclf.champion import champion_event, champion_model, champion_split
from carclf.cli.app import app
from carclf.errors import DataError
from carclf.evaluation import reload_check
from carclf.inference.runtimes import LOADERS
from carclf.runs.record import read_record
from carclf.runs.repair import find_damage
from carclf.services.storage import Store
from carclf.stages.chain import STAGES


def artifact_of(store: Store, run: str, stage: str) -> Artifact:
    record = read_record(store, run)
    assert record is not None
    return STAGES[stage].artifact.require(store, record["stages"][stage]["key"])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def damage(store: Store, artifact: Artifact, how: str) -> None:
    """Flip a bit in the manifest or in each file, or remove the files."""
    if how == "manifest":
        flip_bit(Path(store.url, artifact.manifest_path(artifact.key)))
    for file in artifact.files.values() if how != "manifest" else ():
        if how == "removed":
            Path(store.url, file.key).unlink()
        else:
            flip_bit(Path(store.url, file.key))


def paths_of_damage(store: Store) -> set[str]:
    return {damage.path for damage in find_damage(store)}


def contents(store: Store, artifact: Artifact) -> dict[str, str]:
    """Return the hashes of the files that are the same each time; a model's file contains the date."""
    names = {"model.keras", "report.html", "evaluation.json", "history.csv", "curves.png"}
    return {name: file.sha256 for name, file in artifact.files.items() if name not in names}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kaggle_environment: None) -> None:
    """Without a cached copy, the damage in the store is noticed."""
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("stage", "how"),
    [("download", "flipped"), ("download", "manifest"), ("validate", "manifest"), ("split", "removed")],
)
def test_a_normal_run_rebuilds_damaged_data_under_their_keys(store_copy: Store, stage: str, how: str) -> None:
    artifact = artifact_of(store_copy, "seed-0", stage)
    damage(store_copy, artifact, how)
    run_to("train_head", store_copy, "after", seed=7)
    rebuilt = type(artifact).require(store_copy, artifact.key)
    assert contents(store_copy, rebuilt) == contents(store_copy, artifact)
    assert f"{artifact.folder}/{artifact.key}" not in paths_of_damage(store_copy)


def test_a_forced_run_rebuilds_the_champions_split(store_copy: Store) -> None:
    split = champion_split(store_copy)
    assert split is not None
    damage(store_copy, split, "flipped")
    run_to("split", store_copy, "forced", force=True)
    assert contents(store_copy, Split.require(store_copy, split.key)) == contents(store_copy, split)


def test_a_run_rebuilds_the_champions_model_with_the_same_weights(store_copy: Store) -> None:
    model = champion_model(store_copy)
    assert model is not None
    damage(store_copy, model, "flipped")
    run_to("train_head", store_copy, "after", **{"model.weights": "champion", "seed": 3})
    assert contents(store_copy, Model.require(store_copy, model.key)) == contents(store_copy, model)
    assert paths_of_damage(store_copy) == set()


def test_a_champion_whose_files_are_gone_is_not_replaced_by_other_weights(store_copy: Store) -> None:
    """Nothing proves that the new weights are the champion's."""
    model = champion_model(store_copy)
    assert model is not None
    damage(store_copy, model, "manifest")
    damage(store_copy, model, "removed")
    with pytest.raises(DataError, match=rf"Restore models/{model.key}/"):
        run_to("train_head", store_copy, "after", **{"model.weights": "champion"})
    assert paths_of_damage(store_copy) == {f"models/{model.key}"}


def test_the_evaluation_of_a_model_with_other_weights_is_rebuilt(
    store_copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_check, "predict_logits", lambda name, path, images: LOADERS[name](path)(images))
    model = artifact_of(store_copy, "seed-1", "fine_tune")
    evaluation = artifact_of(store_copy, "seed-1", "evaluate")
    damage(store_copy, model, "manifest")
    damage(store_copy, model, "removed")
    result = CliRunner().invoke(app, ["store", "check", "--repair", "--store", store_copy.url])
    assert result.exit_code == 0, result.output
    for path in (f"models/{model.key}", f"evaluations/{evaluation.key}"):
        assert f"rebuilt  {path}\n" in result.output
    assert paths_of_damage(store_copy) == set()


def test_check_finds_and_repairs_one_damaged_artifact_of_each_kind(store_copy: Store) -> None:
    damaged = set()
    for kind in KINDS.values():
        for key in kind.list_keys(store_copy)[:1]:
            damage(store_copy, kind.require(store_copy, key), "flipped")
            damaged.add(f"{kind.folder}/{key}")
    command = ["store", "check", "--store", store_copy.url]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, DataError)
    assert damaged <= paths_of_damage(store_copy)
    assert all(path in result.output for path in damaged)
    repaired = CliRunner().invoke(app, [*command, "--repair"])
    decision = next(path for path in damaged if path.startswith("decisions/"))
    assert isinstance(repaired.exception, DataError) and decision in str(repaired.exception)
    assert {path for path in paths_of_damage(store_copy) if path.startswith(tuple(KINDS))} >= {decision}


@pytest.mark.parametrize("key", ["champion.json", "runs/seed-0.json", "label_fixes.csv"])
def test_check_finds_damaged_state_files(store_copy: Store, key: str) -> None:
    store_copy.write(key, b"{")
    assert key in paths_of_damage(store_copy)


def test_check_finds_an_artifact_that_is_missing(store_copy: Store) -> None:
    event = champion_event(store_copy)
    assert event is not None
    Path(store_copy.url, "decisions", event["decision"], "manifest.json").unlink()
    assert paths_of_damage(store_copy) == {f"decisions/{event['decision']}"}


def test_check_of_an_intact_store_succeeds(store_copy: Store) -> None:
    result = CliRunner().invoke(app, ["store", "check", "--store", store_copy.url])
    assert result.exit_code == 0, result.output
