"""validate reads archives as people and tools really make them, and reports what it does not use."""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_bytes import tar_bytes, zip_bytes
from gate_candidates import build_artifact
from PIL import Image

from carclf.artifacts import Archive, Dataset, Evaluation, Model, Provenance, StageContext
from carclf.config import load_config
from carclf.errors import DataError
from carclf.services.storage import Store, open_store
from carclf.stages.submit import predict_test
from carclf.stages.validate import validate

SETTINGS = {"data.source": "demo-cars", "submit.kind": "label", "validation.min_images_per_class": 4}
NUM_TRAIN, NUM_TEST = 16, 4
Members = Mapping[str, bytes]


def image(number: int) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(small).resize((96, 72), 3).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


TRAIN = {f"train/{number % 2}/{number}.jpg": image(number) for number in range(NUM_TRAIN)}
TEST = {f"test_upload/{number}.jpg": image(number) for number in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)}
IMAGES = TRAIN | TEST


def sample(names: list[str]) -> Members:
    return {"sample-submission.csv": ("Id,Category\n" + "".join(f"{name},0\n" for name in names)).encode()}


SAMPLE = sample([name.rpartition("/")[2] for name in TEST])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def validate_archive(data: bytes, store: Store) -> tuple[Archive, Dataset]:
    archive = build_artifact(store, Archive, Provenance(1, {}, {"data": str(hash(data))}), {}, {"archive.zip": data})
    return archive, validate(archive, StageContext(store, load_config("demo", SETTINGS)))[0]


def find(dataset: Dataset, store: Store, kind: str) -> list[dict[str, Any]]:
    report = json.loads(dataset.path(store, "report.json").read_text())
    return [finding for finding in report["findings"]["reported"] if finding["kind"] == kind]


def rename(members: Members, change: Callable[[str], str]) -> Members:
    return {change(name): data for name, data in members.items()}


def numbered(text: str) -> Callable[[str], str]:
    """Return a function that puts a text before the number in a file's name."""
    return lambda name: re.sub(r"(\d+\.jpg)$", rf"{text}\1", name)


def double_folder(name: str) -> str:
    return f"{name.partition('/')[0]}/{name}"


@pytest.mark.parametrize(
    "members",
    [
        SAMPLE | rename(IMAGES, double_folder),
        SAMPLE | rename(IMAGES, lambda name: f"cars/data/{name}"),
        rename(SAMPLE | IMAGES, lambda name: name.replace("train", "Train").replace("test_upload", "TEST_UPLOAD")),
        {"Sample-Submission.CSV": SAMPLE["sample-submission.csv"]} | IMAGES,
        SAMPLE | {"TRAIN.ZIP": zip_bytes(TRAIN), "Test.Zip": zip_bytes(TEST)},
        SAMPLE | {"train.zip": zip_bytes(rename(TRAIN, lambda name: name.removeprefix("train/")))} | TEST,
        SAMPLE | {"images.tar": tar_bytes(IMAGES)},
        SAMPLE | {"images.tar.gz": tar_bytes(IMAGES, "gz")},
        SAMPLE | {"images.TBZ2": tar_bytes(IMAGES, "bz2")},
        SAMPLE | {"train.tar.xz": tar_bytes({"train.zip": zip_bytes(TRAIN)}, "xz")} | TEST,
        SAMPLE | {"inner.zip": zip_bytes({"train.tar": tar_bytes(TRAIN)})} | TEST,
    ],
    ids=["doubled folders", "folders above", "upper case", "upper case table", "upper case archives", "no top folder",
         "tar", "tar.gz", "tbz2", "zip in tar.xz", "tar in zip"],
)
def test_all_images_of_an_odd_layout_are_used(store: Store, members: Members) -> None:
    _, dataset = validate_archive(zip_bytes(members), store)
    assert (dataset.metrics["num_train"], dataset.metrics["num_test"]) == (NUM_TRAIN, NUM_TEST)
    assert not find(dataset, store, "ignored_data")


def test_stray_files_are_ignored(store: Store) -> None:
    """Files of Windows, macOS, Synology and QNAP, and documents; none of them is a training image."""
    junk = ["Thumbs.db", "desktop.ini", "Icon\r", "0/Thumbs.db", "0/.DS_Store", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
            "0/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".@__thumb/a.jpg", ".ipynb_checkpoints/a.jpg", "#recycle/b.jpg"]
    documents = ["README", "README.txt", "0/list.csv", "1/list.csv", "0/notes.md"]
    stray = {f"train/{name}": name.encode() for name in junk + documents}
    stray |= {"__MACOSX/._train.zip": b"\0\5\x16\7", "test_upload/Thumbs.db": b"", "LICENSE": b""}
    _, dataset = validate_archive(zip_bytes(SAMPLE | IMAGES | stray), store)
    assert (dataset.metrics["num_train"], dataset.metrics["num_unusable"]) == (NUM_TRAIN, 0)
    ignored = [finding["path"] for finding in find(dataset, store, "ignored_file")]
    assert ignored == ["LICENSE", "train/0/notes.md", "train/README", "train/README.txt"]
    tables = [finding["path"] for finding in find(dataset, store, "invalid_label_table")]
    assert tables == ["train/0/list.csv", "train/1/list.csv"]
    assert not find(dataset, store, "ignored_data")


def test_ignored_images_and_archives_are_warnings(store: Store) -> None:
    ignored = {"more/a.jpg": b"x", "train.rar": b"x", "extra.zip": zip_bytes({"b.png": b"x"})}
    _, dataset = validate_archive(zip_bytes(SAMPLE | IMAGES | ignored), store)
    paths = [finding["path"] for finding in find(dataset, store, "ignored_data")]
    assert sorted(paths) == ["extra/b.png", "more/a.jpg", "train.rar"] and dataset.metrics["num_warnings"] == 3


def test_an_error_names_an_archive_that_cannot_be_read(store: Store) -> None:
    with pytest.raises(DataError, match=r"images\.7z"):
        validate_archive(zip_bytes(SAMPLE | {"images.7z": b"7z"}), store)


@pytest.mark.parametrize("encoding", ["cp866", "cp1251", "gb18030", "utf-8"])
def test_names_without_the_utf8_flag_are_matched(
    store: Store, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Older archivers use the code page of their system."""
    name = numbered("авто")
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags",
                      lambda self: (self.filename.encode(encoding), self.flag_bits & ~0x800))
        data = zip_bytes(rename(IMAGES, name) | sample([name(path).rpartition("/")[2] for path in TEST]))
    _, dataset = validate_archive(data, store)
    test = dataset.index(store).query("source == 'test'")
    assert sorted(test["id"]) == [f"авто{number}.jpg" for number in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)]


def test_names_of_a_tar_in_a_code_page_are_matched(store: Store) -> None:
    name = numbered("авто")
    raw = rename(IMAGES, lambda path: name(path).encode("cp1251").decode("utf-8", "surrogateescape"))
    data = tar_bytes(raw)
    ids = [name(path).rpartition("/")[2] for path in TEST]
    _, dataset = validate_archive(zip_bytes({"images.tar": data} | sample(ids)), store)
    assert set(ids) <= set(dataset.index(store)["id"])


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_composed_and_decomposed_names_are_the_same(store: Store, forms: tuple[str, str]) -> None:
    """Decomposed names are from macOS; the tables of the same competition may not."""
    names = numbered("zürich")
    members = rename(IMAGES, lambda name: unicodedata.normalize(forms[0], names(name)))
    ids = [unicodedata.normalize(forms[1], names(name)).rpartition("/")[2] for name in TEST]
    rows = [f"{unicodedata.normalize(forms[1], names(name)).rpartition('/')[2]},{name[6]}\n" for name in TRAIN]
    tables = sample(ids) | {"train.csv": f"Id,Category\n{''.join(rows)}".encode()}
    _, dataset = validate_archive(zip_bytes(members | tables), store)
    assert set(ids) <= set(dataset.index(store)["id"]) and dataset.metrics["num_warnings"] == 0


def test_backslashes_separate_folders(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags",
                      lambda self: (self.filename.replace("/", "\\").encode(), self.flag_bits))
        folders = dict.fromkeys(["train/", "train/0/", "train/1/", "test_upload/"], b"")
        data = zip_bytes(folders | SAMPLE | IMAGES)
    assert b"train\\0\\" in data and validate_archive(data, store)[1].metrics["num_train"] == NUM_TRAIN


def test_long_names_are_shortened_and_still_match(store: Store) -> None:
    long = numbered("ü" * 140)
    ids = [long(name).rpartition("/")[2] for name in TEST]
    _, dataset = validate_archive(zip_bytes(rename(IMAGES, long) | sample(ids)), store)
    index = dataset.index(store)
    assert len(ids[0].encode()) > 255 >= index["path"].str.rpartition("/")[2].map(lambda name: len(name.encode())).max()
    assert dataset.metrics["num_train"] == NUM_TRAIN == index["path"].nunique() - NUM_TEST
    assert set(ids) <= set(index["id"])


@pytest.mark.parametrize("folder", ["train/2/", "train/2/.gitkeep", "train/2/Thumbs.db"])
def test_an_empty_class_folder_is_a_warning(store: Store, folder: str) -> None:
    for data in (zip_bytes(SAMPLE | IMAGES | {folder: b""}),
                 zip_bytes(SAMPLE | {"images.tar": tar_bytes(IMAGES | {folder: b""})})):
        _, dataset = validate_archive(data, store)
        [finding] = find(dataset, store, "empty_class_folder")
        assert finding["path"].endswith("train/2")
        assert (dataset.metrics["num_classes"], dataset.metrics["num_warnings"]) == (2, 1)


def test_two_folders_of_one_class_number_are_an_error(store: Store) -> None:
    members = rename(IMAGES, lambda name: name.replace("train/1/", "train/01/") if name[-5] == "1" else name)
    with pytest.raises(DataError, match=r"classes 01, 1 are the same number"):
        validate_archive(zip_bytes(SAMPLE | members), store)


def test_zero_padded_class_folders_keep_their_names(store: Store) -> None:
    members = rename(IMAGES, lambda name: name.replace("train/", "train/0"))
    _, dataset = validate_archive(zip_bytes(SAMPLE | members), store)
    assert set(dataset.index(store)["label"]) == {"", "00", "01"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["foo.jpg,99"], "foo.jpg"),
        ([f"{number}.jpg,{number % 2}" for number in range(NUM_TRAIN)] + ["99.jpg,0"], "1 of 17 ids"),
        ([f"{number}.jpg,{number % 2}" for number in range(4)], "12 training images"),
    ],
    ids=["other data", "more ids", "more images"],
)
def test_a_label_table_that_does_not_match_the_images_is_a_warning(
    store: Store, rows: list[str], text: str
) -> None:
    table = "\n".join(["Id,Category", *rows]).encode()
    _, dataset = validate_archive(zip_bytes(SAMPLE | IMAGES | {"train.csv": table}), store)
    [finding] = find(dataset, store, "unmatched_label_table")
    assert text in finding["message"] and dataset.metrics["num_train"] == NUM_TRAIN


def test_a_label_table_that_contradicts_the_folders_is_a_warning_for_each_image(store: Store) -> None:
    rows = [f"{number},{1 - number % 2}" for number in range(NUM_TRAIN)]
    table = "\n".join(["Id,Category", *rows]).encode()
    _, dataset = validate_archive(zip_bytes(SAMPLE | IMAGES | {"train.csv": table}), store)
    assert len(find(dataset, store, "label_mismatch")) == NUM_TRAIN == dataset.metrics["num_warnings"]


def test_training_images_of_the_same_name_have_different_ids(store: Store) -> None:
    """The gate joins the predictions of two models by id."""
    members = rename(TRAIN, lambda name: re.sub(r"(\d+)\.jpg", lambda match: f"{int(match[1]) // 2}.jpg", name)) | TEST
    _, dataset = validate_archive(zip_bytes(SAMPLE | members), store)
    train = dataset.index(store).query("source == 'train'")
    assert train["id"].is_unique and (train["id"] == train["path"]).all()
    assert not find(dataset, store, "duplicate_name")


def test_the_submission_has_each_id_as_the_sample_writes_it(store: Store, tmp_path: Path) -> None:
    """Ids that look like missing values or numbers, a decomposed id, and one that is too long for a file name."""
    import keras

    ids = ["NA", "null", "nan", "1e5", "007", "1.50", "True", unicodedata.normalize("NFD", "ü.jpg"), "ä" * 150, "a,b"]
    test = {f"test_upload/{image_id}": image(number) for number, image_id in enumerate(ids, 90)}
    archive, dataset = validate_archive(zip_bytes(TRAIN | test | sample([*ids[:-1], '"a,b"'])), store)
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]).save(
        tmp_path / "model.keras")
    model_metrics = {"image_height": 8, "image_width": 8, "class_names": ["0", "1"]}
    files = {"model.keras": (tmp_path / "model.keras").read_bytes()}
    model = build_artifact(store, Model, Provenance(1, {}, {}), model_metrics, files)
    evaluation = build_artifact(store, Evaluation, Provenance(1, {}, {}), {"temperature": 1.0}, {})
    context = StageContext(store, load_config("demo", SETTINGS))
    prediction, _ = predict_test(archive, dataset, model, evaluation, context)
    with prediction.path(store, "submission.csv").open(encoding="utf-8", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["Id", *ids]
