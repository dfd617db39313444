"""``carclf store check``: damage is found everywhere, and rebuilt under the same key where that is possible."""

from pathlib import Path

import pytest
from gate_candidates import build_artifact
from small_runs import reload_in_this_process, run_to
from typer.testing import CliRunner

from carclf.artifacts import KINDS, Artifact, Audit, Decision, Model, Provenance, PublicScore, Split, Submission
from carclf.champion import champion_event, champion_model, champion_split
from carclf.cli.app import app
from carclf.errors import DamagedArtifactError, DataError
from carclf.runs.record import read_record, record_key
from carclf.runs.repair import Damage, find_damage, repair
from carclf.services.storage import Store, init_store
from carclf.stages.chain import STAGES

pytestmark = pytest.mark.integration


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
    reload_in_this_process(monkeypatch)


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
    result, text = repair(store_copy, Damage(f"models/{model.key}", "damaged"))
    assert result == "damaged" and f"Restore models/{model.key}/" in text
    assert paths_of_damage(store_copy) == {f"models/{model.key}"}


def test_other_weights_do_not_replace_the_manifest_of_a_champion(
    store_copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model.keras is intact: only another file is damaged."""
    monkeypatch.setattr("carclf.runs.repair._is_same_model", lambda model, files: False)
    model = champion_model(store_copy)
    assert model is not None
    flip_bit(Path(store_copy.url, model.files["reference_logits.parquet"].key))
    assert repair(store_copy, Damage(f"models/{model.key}", "damaged"))[0] == "damaged"
    assert champion_model(store_copy) == model


def test_a_failed_rebuild_leaves_the_manifest(store_copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    archive = artifact_of(store_copy, "seed-0", "download")
    damage(store_copy, archive, "flipped")
    assert repair(store_copy, Damage(f"archives/{archive.key}", "damaged"))[0] == "damaged"
    assert artifact_of(store_copy, "seed-0", "download") == archive


@pytest.mark.parametrize("stage", ["train_head", "fine_tune"])
def test_a_model_whose_key_has_changed_is_not_trained(
    store_copy: Store, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    model = artifact_of(store_copy, "seed-0", stage)
    damage(store_copy, model, "flipped")
    monkeypatch.setattr(f"carclf.stages.{stage}.VERSION", 1000)
    monkeypatch.setattr("carclf.artifacts.upload", pytest.fail)
    result, text = repair(store_copy, Damage(f"models/{model.key}", "damaged"))
    assert result == "damaged" and f"Restore models/{model.key}/" in text


def test_split_does_not_train_the_champion_again(store_copy: Store) -> None:
    model = champion_model(store_copy)
    assert model is not None
    damage(store_copy, model, "manifest")
    damaged = Path(store_copy.url, Model.manifest_path(model.key)).read_bytes()
    with pytest.raises(DamagedArtifactError, match="store check --repair") as error:
        run_to("split", store_copy, "after", seed=7)
    assert error.value.path == f"models/{model.key}"
    assert Path(store_copy.url, Model.manifest_path(model.key)).read_bytes() == damaged


@pytest.mark.parametrize("kind", [Decision, PublicScore, Audit])
@pytest.mark.parametrize("content", [b"{", b"{}"])
def test_an_internal_artifact_is_marked_and_counts_as_missing(
    tmp_path: Path, kind: type[Artifact], content: bytes
) -> None:
    store = init_store(tmp_path / "store")
    key = build_artifact(store, kind, Provenance(1, {}, {})).key
    store.write(kind.manifest_path(key), content)
    command = ["store", "check", "--repair", "--store", store.url]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and f"marked   {kind.folder}/{key}" in result.output
    assert kind.find(store, key) is None and paths_of_damage(store) == set()


def test_an_evaluation_of_a_champion_without_its_run_is_damaged(store_copy: Store) -> None:
    evaluation = artifact_of(store_copy, "seed-0", "evaluate")
    damage(store_copy, evaluation, "manifest")
    Path(store_copy.url, record_key("seed-0")).unlink()
    path = f"evaluations/{evaluation.key}"
    for _ in range(2):
        result = CliRunner().invoke(app, ["store", "check", "--repair", "--store", store_copy.url])
        assert isinstance(result.exception, DataError) and path in str(result.exception)


def test_a_damaged_submission_is_submitted_again_by_the_user(tmp_path: Path) -> None:
    store = init_store(tmp_path / "store")
    key = build_artifact(store, Submission, Provenance(1, {}, {})).key
    store.write(Submission.manifest_path(key), b"{")
    result, text = repair(store, Damage(f"submissions/{key}", "damaged"))
    assert result == "damaged" and f"submit --run RUN --store {store.url}" in text


def test_the_evaluation_of_a_model_with_other_weights_is_rebuilt(store_copy: Store) -> None:
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


def test_check_finds_damaged_claims_and_experiments(tmp_path: Path) -> None:
    store = init_store(tmp_path / "store")
    names = ("plan.json", "outcome.json", "rungs/1/0.json")
    keys = ["submissions/claims/cars-0.json", *(f"experiments/e/{name}" for name in names)]
    store.write("submissions/claims/cars-1.json", b"null")
    for key in keys:
        store.write(key, b"{")
    for options in ([], ["--repair"]):
        result = CliRunner().invoke(app, ["store", "check", "--store", store.url, *options])
        assert isinstance(result.exception, DataError) and "4 objects" in str(result.exception)
        assert all(f"damaged  {key}: " in result.output for key in keys)


def test_check_finds_an_artifact_that_is_missing(store_copy: Store) -> None:
    event = champion_event(store_copy)
    assert event is not None
    Path(store_copy.url, "decisions", event["decision"], "manifest.json").unlink()
    assert paths_of_damage(store_copy) == {f"decisions/{event['decision']}"}


def test_check_of_an_intact_store_succeeds(store_copy: Store) -> None:
    result = CliRunner().invoke(app, ["store", "check", "--store", store_copy.url])
    assert result.exit_code == 0, result.output
