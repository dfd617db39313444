"""Batch predictions: each image once, also with killed workers, overlapping plans and simultaneous workers."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from color_champion import CLASS_NAMES, color_image, promote_color_champion
from typer.testing import CliRunner

from carclf.batch_prediction.plan import Plan, describe_new, make_plan, open_source
from carclf.batch_prediction.predict import ModelOutputs, predict_shards
from carclf.batch_prediction.pseudo_labels import copy_confident
from carclf.batch_prediction.shard_files import BatchFolder, ShardId
from carclf.batch_prediction.table import SUMMARY_COLUMNS, most_uncertain, prediction_drift, read_predictions
from carclf.cli.app import app
from carclf.dataset.listing import BucketPrefix, Folder
from carclf.errors import ConfigError, DamagedArtifactError, DataError, ServiceError
from carclf.runs.model_selection import select_model
from carclf.runs.predictor import load_predictor
from carclf.services.storage import FolderStore, Store, init_store

pytestmark = pytest.mark.integration

SHARD_SIZE = 4


class Images:
    """A folder or a bucket's prefix that a test fills; ``write`` has boto3's options for a bucket."""

    def __init__(self, url: str, write: Callable[..., None], remove: Callable[[str], None]) -> None:
        self.url = url
        self.write = write
        self.remove = remove

    def add(self, numbers: range, **options: Any) -> None:
        for number in numbers:
            self.write(f"{number:03d}.png", color_image(CLASS_NAMES[number % 3], **options))

    @property
    def source(self) -> Folder | BucketPrefix:
        return open_source(self.url)


@pytest.fixture
def folder_images(tmp_path: Path) -> Images:
    folder = tmp_path / "my images"
    folder.mkdir()
    return Images(str(folder), lambda name, data: (folder / name).write_bytes(data) and None,
                  lambda name: (folder / name).unlink())


@pytest.fixture
def bucket_images(aws: None) -> Images:
    import boto3

    client, name = boto3.client("s3"), f"images-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    return Images(f"s3://{name}/inbox", lambda path, data, **options: client.put_object(
        Bucket=name, Key=f"inbox/{path}", Body=data, **options) and None,
        lambda path: client.delete_object(Bucket=name, Key=f"inbox/{path}") and None)


@pytest.fixture(params=["folder", "bucket"])
def images(request: pytest.FixtureRequest) -> Images:
    return request.getfixturevalue(f"{request.param}_images")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = init_store(str(tmp_path / "store"))
    promote_color_champion(store)
    return store


def plan_images(store: Store, images: Images, shard_size: int = SHARD_SIZE) -> Plan:
    return make_plan(store, select_model(store).model.key, images.source, shard_size)


def predict_images(store: Store, images: Images, shards: list[ShardId]) -> dict[str, int]:
    selected = select_model(store)
    source = images.source
    return predict_shards(
        BatchFolder(store, selected.model.key, source.name), shards, source,
        lambda: ModelOutputs(load_predictor(selected, store), selected.model.class_names))


def folder_of(store: Store, images: Images) -> BatchFolder:
    return BatchFolder(store, select_model(store).model.key, images.source.name)


def stored_rows(store: Store, images: Images) -> pd.DataFrame:
    """Return all rows of the Parquet files, also of earlier versions of images."""
    folder = folder_of(store, images)
    return pd.concat([folder.read_shard(shard) for shard in folder.list_objects()[1]], ignore_index=True)


def assert_predicted_once(rows: pd.DataFrame, numbers: range) -> None:
    assert sorted(rows["id"]) == [f"{number:03d}.png" for number in numbers]
    expected = {f"{number:03d}.png": CLASS_NAMES[number % 3] for number in numbers}
    assert dict(zip(rows["id"], rows["class"], strict=True)) == expected


def test_each_image_has_one_row_with_calibrated_probabilities(store: Store, images: Images) -> None:
    images.add(range(10))
    plan = plan_images(store, images)
    assert (plan.num_listed, plan.num_new, [str(shard) for shard in plan.shards]) == (
        10, 10, ["00001-00000", "00001-00001", "00001-00002"])
    counts = predict_images(store, images, plan.shards)
    assert counts == {"num_shards": 3, "num_finished_before": 0, "num_images": 10, "num_unreadable": 0, "num_left": 0}
    rows = read_predictions(folder_of(store, images))
    assert_predicted_once(rows, range(10))
    assert set(rows["model"]) == {select_model(store).model.key} and set(rows["plan"]) == {1}
    probabilities = rows[[f"p_{name}" for name in CLASS_NAMES]]
    assert probabilities.sum(axis="columns").to_numpy() == pytest.approx(1, abs=1e-5)
    assert (probabilities.max(axis="columns") == rows["probability"]).all()
    temperature = select_model(store).temperature
    assert temperature and temperature != 1
    weight = math.exp(4 / temperature)  # the logits are 4, 0 and 0
    assert rows["probability"][0] == pytest.approx(weight / (weight + 2), abs=1e-4)


def test_a_source_without_images_yet_plans_nothing_and_warns(
    store: Store, folder_images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    Path(folder_images.url).mkdir(exist_ok=True)
    plan = plan_images(store, folder_images)
    assert (plan.shards, plan.num_listed, plan.num_new) == ([], 0, 0)
    assert "there are no images" in caplog.text


def test_only_new_and_changed_images_are_predicted_again(store: Store, images: Images) -> None:
    images.add(range(6))
    predict_images(store, images, plan_images(store, images).shards)
    assert plan_images(store, images).shards == []
    images.add(range(6, 8))
    time.sleep(0.01)
    images.write("000.png", color_image("red"))
    status = describe_new(store, select_model(store).model.key, images.source)
    assert (status["changed"], status["num_images"], status["num_new_images"]) == (True, 8, 3)
    plan = plan_images(store, images)
    assert plan.num_new == 3
    assert not describe_new(store, select_model(store).model.key, images.source)["changed"]
    counts = predict_images(store, images, plan.shards)
    assert counts["num_images"] == 3
    rows = read_predictions(folder_of(store, images)).set_index("id")
    assert len(rows) == 8 and rows["class"]["000.png"] == "red" and rows["plan"]["000.png"] == 2
    assert not stored_rows(store, images).duplicated(["id", "version"]).any()


def test_an_image_that_returns_to_an_earlier_version_is_predicted_again(store: Store, bucket_images: Images) -> None:
    for name in ("red", "blue", "red"):
        bucket_images.write("a.png", color_image(name))
        predict_images(store, bucket_images, plan_images(store, bucket_images).shards)
        rows = read_predictions(folder_of(store, bucket_images))
        assert rows["class"].tolist() == [name]


def test_a_new_champion_predicts_all_images(store: Store, folder_images: Images) -> None:
    folder_images.add(range(5))
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    promote_color_champion(store, "another")
    assert plan_images(store, folder_images).num_new == 5


def test_images_of_an_unfinished_plan_are_not_planned_again(store: Store, images: Images) -> None:
    images.add(range(6))
    first = plan_images(store, images)
    images.add(range(6, 9))
    second = plan_images(store, images)
    assert second.num_new == 3 and second.shards == [*first.shards, ShardId(2, 0)]
    predict_images(store, images, second.shards)
    assert predict_images(store, images, first.shards)["num_finished_before"] == 2
    assert_predicted_once(stored_rows(store, images), range(9))


def test_two_plans_at_the_same_time_share_no_image(store: Store, folder_images: Images) -> None:
    folder_images.add(range(40))
    plans: list[Plan] = []
    threads = [threading.Thread(target=lambda: plans.append(plan_images(store, folder_images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(plan.num_new for plan in plans) == [0, 0, 0, 40]
    assert {tuple(plan.shards) for plan in plans} == {tuple(ShardId(1, number) for number in range(10))}


def test_a_plan_that_loses_a_race_is_made_again(
    store: Store, folder_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_images.add(range(4))
    def lose(folder: BatchFolder, number: int, plan: pd.DataFrame) -> bool:
        monkeypatch.setattr(BatchFolder, "write_plan", write_plan)
        folder_images.add(range(4, 6))
        assert plan_images(store, folder_images).num_new == 6
        return write_plan(folder, number, plan)

    write_plan = BatchFolder.write_plan
    monkeypatch.setattr(BatchFolder, "write_plan", lose)
    plan = plan_images(store, folder_images)
    assert plan.num_new == 0 and len(plan.shards) == 2


def test_two_workers_with_the_same_shards_write_each_row_once(store: Store, images: Images) -> None:
    images.add(range(12))
    shards = plan_images(store, images).shards
    counts: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: counts.append(predict_images(store, images, shards))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(count["num_shards"] for count in counts) == 3
    assert sum(count["num_finished_before"] for count in counts) == 3
    assert_predicted_once(stored_rows(store, images), range(12))


def test_unreadable_images_have_a_row_with_the_reason(store: Store, images: Images) -> None:
    images.add(range(3))
    images.write("003.png", b"not an image")
    images.write("004.png", color_image("red")[:40])
    images.write("005.png", b"x" * 4_000_001)
    images.write("notes.txt", b"n")
    images.write("labels.csv", b"id,label\n")
    counts = predict_images(store, images, plan_images(store, images).shards)
    assert (counts["num_images"], counts["num_unreadable"], counts["num_left"]) == (6, 3, 0)
    rows = read_predictions(folder_of(store, images)).set_index("id")
    assert rows.index.tolist() == [f"00{number}.png" for number in range(6)]
    unreadable = rows.loc[["003.png", "004.png", "005.png"]]
    assert unreadable["class"].isna().all() and unreadable.filter(regex="^p").drop(columns=["problem", "plan"]).isna(
        ).to_numpy().all()
    assert unreadable["problem"].str.contains("decoded|bytes").all()
    assert plan_images(store, images).shards == []


def test_an_image_that_was_removed_after_the_plan_is_planned_when_it_returns(
    store: Store, folder_images: Images
) -> None:
    folder_images.add(range(3))
    shards = plan_images(store, folder_images).shards
    path = Path(folder_images.url, "001.png")
    path.rename(path.with_name(".hidden"))
    assert predict_images(store, folder_images, shards)["num_left"] == 1
    assert plan_images(store, folder_images).shards == []
    path.with_name(".hidden").rename(path)
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    assert_predicted_once(stored_rows(store, folder_images), range(3))


def test_a_bucket_that_fails_finishes_no_shard(
    store: Store, bucket_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket_images.add(range(3))
    shards = plan_images(store, bucket_images).shards
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ServiceError, match="CARCLF_PREDICT_SOURCE"):
        predict_images(store, bucket_images, shards)
    assert folder_of(store, bucket_images).list_objects()[1] == []


@pytest.mark.parametrize("has_mount_point", [False, True])
def test_a_folder_that_is_not_mounted_finishes_no_shard(
    store: Store, folder_images: Images, has_mount_point: bool
) -> None:
    folder_images.add(range(6))
    shards = plan_images(store, folder_images).shards
    folder = Path(folder_images.url)
    disk = folder.rename(folder.with_name("disk"))
    if has_mount_point:
        folder.mkdir()
    with pytest.raises(ServiceError, match="CARCLF_PREDICT_SOURCE"):
        predict_images(store, folder_images, shards)
    assert folder_of(store, folder_images).list_objects()[1] == []
    shutil.rmtree(folder, ignore_errors=True)
    disk.rename(folder)
    assert predict_images(store, folder_images, shards)["num_images"] == 6


def test_a_shard_whose_images_were_all_removed_is_finished_without_rows(store: Store, images: Images) -> None:
    images.add(range(SHARD_SIZE + 1))
    shards = plan_images(store, images).shards
    images.remove(f"{SHARD_SIZE:03d}.png")
    counts = predict_images(store, images, shards)
    assert (counts["num_shards"], counts["num_images"], counts["num_left"]) == (2, SHARD_SIZE, 1)
    assert plan_images(store, images).shards == []


def test_an_archived_object_does_not_block_its_shard(store: Store, bucket_images: Images) -> None:
    bucket_images.add(range(3))
    bucket_images.write("archived.png", color_image("red"), StorageClass="GLACIER")
    counts = predict_images(store, bucket_images, plan_images(store, bucket_images).shards)
    assert (counts["num_shards"], counts["num_images"], counts["num_left"]) == (1, 3, 1)
    shards = plan_images(store, bucket_images).shards
    with pytest.raises(ServiceError, match=r"CARCLF_PREDICT_SOURCE.*archived\.png.*restore"):
        predict_images(store, bucket_images, shards)
    bucket_images.write("archived.png", color_image("red"))
    assert predict_images(store, bucket_images, shards)["num_images"] == 1


def test_a_damaged_model_is_reported_as_such(store: Store, folder_images: Images) -> None:
    folder_images.add(range(3))
    shards = plan_images(store, folder_images).shards
    [path] = Path(store.url, "models").rglob("*model*.keras")
    path.unlink()
    with pytest.raises(DamagedArtifactError, match=r"model.*missing"):
        predict_images(store, folder_images, shards)


def worker(store: Store, images: Images, shards: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "carclf", "predictions", "shard", shards, "--source", images.url, "--store",
               store.url]
    return subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, env=dict(os.environ))


def test_a_killed_worker_costs_one_shard(store: Store, folder_images: Images) -> None:
    folder_images.add(range(400))
    shards = plan_images(store, folder_images, shard_size=100).shards
    ids = ",".join(map(str, shards))
    folder = folder_of(store, folder_images)
    killed = worker(store, folder_images, ids)
    while not folder.list_objects()[1]:
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = folder.list_objects()[1]
    assert 0 < len(finished) < 4
    assert worker(store, folder_images, ids).wait(600) == 0
    assert_predicted_once(stored_rows(store, folder_images), range(400))


def test_a_damaged_shard_is_reported_and_predicted_again_once_removed(store: Store, folder_images: Images) -> None:
    folder_images.add(range(3))
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    [path] = Path(store.url, "batch_predictions").rglob("00001-*.parquet")
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=path.name):
        read_predictions(folder_of(store, folder_images))
    path.unlink()
    shards = plan_images(store, folder_images).shards
    assert shards == [ShardId(1, 0)]
    predict_images(store, folder_images, shards)
    assert_predicted_once(stored_rows(store, folder_images), range(3))


def test_the_folder_of_a_model_is_one_parquet_dataset(store: Store, folder_images: Images) -> None:
    folder_images.add(range(10))
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    rows = pd.read_parquet(Path(store.url, folder_of(store, folder_images).path))
    assert_predicted_once(rows, range(10))


def test_the_most_uncertain_images_have_the_lowest_probabilities(store: Store, folder_images: Images) -> None:
    folder_images.add(range(6))
    folder_images.write("dark.png", color_image("red", brightness=0.2))
    folder_images.write("bad.png", b"")
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    uncertain = most_uncertain(read_predictions(folder_of(store, folder_images)), 2)
    assert uncertain["id"].tolist() == ["dark.png", "000.png"]


def test_confident_images_are_copied_into_class_folders(store: Store, images: Images, tmp_path: Path) -> None:
    images.add(range(6))
    images.write("a.png", color_image("red"))
    images.write("dark.png", color_image("red", brightness=0.2))
    images.write("bad.png", b"")
    predict_images(store, images, plan_images(store, images).shards)
    time.sleep(0.01)
    images.write("003.png", color_image("red"))  # it was blue
    images.remove("004.png")
    rows = read_predictions(folder_of(store, images))
    (limit,) = rows.loc[rows["id"] == "000.png", "probability"]
    counts = copy_confident(rows, images.source, tmp_path / "sure", limit)
    assert counts.to_dict() == {"blue": 1, "green": 1, "red": 3}
    copies = sorted((tmp_path / "sure").rglob("*.png"))
    assert [path.parent.name for path in copies] == ["blue", "green", "red", "red", "red"]
    assert {path.read_bytes() for path in copies[2:]} == {color_image("red")}
    with pytest.raises(ConfigError, match="exists"):
        copy_confident(rows, images.source, tmp_path / "sure", limit)
    with pytest.raises(DataError, match="--min-probability"):
        copy_confident(rows, images.source, tmp_path / "other", 1.0)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("name", "verdict"), [("all", "ok"), ("red", "stop")])
def test_drift_compares_with_the_validation_images(
    store: Store, folder_images: Images, name: str, verdict: str
) -> None:
    for number in range(60):
        color = CLASS_NAMES[number % 3] if name == "all" else name
        folder_images.write(f"{number}.png", color_image(color, brightness=0.66))
    predict_images(store, folder_images, plan_images(store, folder_images, 60).shards)
    evaluation = select_model(store).evaluation
    assert evaluation
    drift = prediction_drift(read_predictions(folder_of(store, folder_images)), evaluation, store)
    by_name = {measure["name"]: measure for measure in drift["measures"]}
    assert drift["num_images"] == 60
    assert by_name["class distribution"]["verdict"] == verdict
    assert by_name["class distribution"]["value"] == pytest.approx({"all": 0.0, "red": 2 / 3}[name], abs=0.02)


def test_few_images_need_not_be_of_all_classes(store: Store, folder_images: Images) -> None:
    for number in range(5):
        folder_images.write(f"{number}.png", color_image(CLASS_NAMES[number % 2], brightness=0.66))
    predict_images(store, folder_images, plan_images(store, folder_images, 5).shards)
    evaluation = select_model(store).evaluation
    assert evaluation
    drift = prediction_drift(read_predictions(folder_of(store, folder_images)), evaluation, store)
    [classes] = [measure for measure in drift["measures"] if measure["name"] == "class distribution"]
    assert (drift["num_images"], classes["verdict"]) == (5, "ok") and classes["p_value"] > 0.1


def test_no_predictions_are_an_empty_table(store: Store, folder_images: Images) -> None:
    folder_images.add(range(1))
    rows = read_predictions(folder_of(store, folder_images))
    assert rows.empty and {"id", "class", "probability"} <= set(rows.columns)
    evaluation = select_model(store).evaluation
    assert evaluation and prediction_drift(rows, evaluation, store) == {}


@pytest.mark.parametrize("source", ["cars", "kaggle://a/b", "photos.zip", "ftp://x/y"])
def test_a_source_that_lists_no_files_is_rejected_by_the_name_of_the_setting(source: str) -> None:
    with pytest.raises(ConfigError, match="CARCLF_PREDICT_SOURCE"):
        open_source(source)


def test_a_name_without_a_slash_gets_the_same_hint_under_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.toml").write_text('[allowed]\nsources = ["./inbox"]\n')
    monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))
    with pytest.raises(ConfigError, match=r"such as \./photos"):
        open_source("inbox")
    with pytest.raises(ConfigError, match="not allowed by the policy"):
        open_source("./other")


def test_a_missing_folder_is_rejected_by_the_name_of_the_setting(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CARCLF_PREDICT_SOURCE"):
        make_plan(store, select_model(store).model.key, open_source(f"{tmp_path}/gone"), 10)


def test_a_shard_that_no_plan_has_raises_data_error(store: Store, folder_images: Images) -> None:
    folder_images.add(range(1))
    plan_images(store, folder_images)
    for shard in (ShardId(1, 7), ShardId(2, 0)):
        with pytest.raises(DataError):
            predict_images(store, folder_images, [shard])


def test_shards_are_divided_among_a_bounded_number_of_groups() -> None:
    shards = [ShardId(1, number) for number in range(10)]
    groups = Plan(shards, 0, 0).groups(4)
    assert [len(group) for group in groups] == [3, 3, 2, 2]
    assert sorted(shard for group in groups for shard in group) == shards
    assert Plan([], 0, 0).groups(4) == []


def test_a_plan_can_be_read_back_from_bytes(store: Store, folder_images: Images) -> None:
    folder_images.add(range(5))
    plan_images(store, folder_images)
    stored = store.read(f"{folder_of(store, folder_images).path}/_plans/00001.parquet")
    assert stored
    table = pd.read_parquet(io.BytesIO(stored.data))
    assert list(table.columns) == ["path", "num_bytes", "version", "shard"]
    assert table["shard"].tolist() == [0, 0, 0, 0, 1]


def test_a_plan_is_read_once_for_all_its_shards(
    store: Store, folder_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_images.add(range(10))
    shards = plan_images(store, folder_images).shards
    keys: list[str] = []
    read = FolderStore.read
    monkeypatch.setattr(FolderStore, "read", lambda store, key: keys.append(key) or read(store, key))
    predict_images(store, folder_images, shards)
    assert [key.rpartition("/")[2] for key in keys if "/_plans/" in key] == ["00001.parquet"]


def test_only_the_requested_columns_are_read(store: Store, folder_images: Images) -> None:
    folder_images.add(range(5))
    folder = folder_of(store, folder_images)
    assert read_predictions(folder, SUMMARY_COLUMNS).columns.tolist() == list(SUMMARY_COLUMNS)
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    rows = read_predictions(folder, SUMMARY_COLUMNS)
    pd.testing.assert_frame_equal(rows, read_predictions(folder)[list(SUMMARY_COLUMNS)])


def test_the_summaries_do_not_read_the_probabilities_of_each_class(
    store: Store, folder_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_images.add(range(5))
    predict_images(store, folder_images, plan_images(store, folder_images).shards)
    columns: list[Any] = []
    read = BatchFolder.read_shard
    monkeypatch.setattr(BatchFolder, "read_shard", lambda folder, shard, names=None: columns.append(names) or read(
        folder, shard, names))
    for arguments in (["show"], ["show", "--uncertain", "2"], ["drift"]):
        options = ["--source", folder_images.url, "--store", store.url]
        assert CliRunner().invoke(app, ["predictions", *arguments, *options]).exit_code == 0
    plan_images(store, folder_images)
    assert {tuple(names) for names in columns} == {SUMMARY_COLUMNS, ("id", "version")}
