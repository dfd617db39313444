"""Checks of a rendered dataset as a whole."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from class_folders import build_index, read_layout
from PIL import Image

from carclf.config import Validation
from carclf.dataset.checks import find_problems, raise_on_errors, unreadable_test_images
from carclf.dataset.detection.result import Layout
from carclf.dataset.findings import Findings
from carclf.dataset.image_checks import CheckContext, conflicting_clusters
from carclf.demo.rendering import render_competition
from carclf.errors import DataError


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cars")
    render_competition(path, num_train=60, num_test=10)
    return path


@pytest.fixture
def folder(rendered: Path, tmp_path: Path) -> Path:
    shutil.copytree(rendered, tmp_path / "cars")
    return tmp_path / "cars"


CONFIG = Validation(min_images_per_class=5)


def check(folder: Path, config: Validation = CONFIG) -> Findings:
    return find_problems(build_index(folder, config), CheckContext(read_layout(folder), config))


def test_faults_in_a_rendered_competition_are_not_errors(folder: Path) -> None:
    index = build_index(folder, CONFIG)
    unusable = index[index["problem"] != ""].set_index("id")["problem"]
    assert sorted(unusable.index) == ["900001.jpg", "900002.jpg", "900003.jpg"]
    assert unusable["900002.jpg"] == "cannot be decoded: the file is empty"
    assert sorted(index[index["sha256"].duplicated(keep=False)].groupby("sha256").size()) == [2, 2]
    raise_on_errors(check(folder))


@pytest.mark.parametrize("source", ["val", "holdout"])
def test_a_class_needs_training_images(folder: Path, source: str) -> None:
    index = build_index(folder, CONFIG)
    index.loc[index["label"] == "3", "source"] = source
    errors = find_problems(index, CheckContext(read_layout(folder), CONFIG))
    assert ("empty_class", "3") in {(finding.kind, finding.path) for finding in errors.reported}
    index.loc[index["label"] == "3", "source"] = [source, *["extra"] * (sum(index["label"] == "3") - 1)]
    assert not find_problems(index, CheckContext(read_layout(folder), CONFIG)).errors


def break_test_images(folder: Path) -> None:
    """Break three test images of ten, and one that needs no prediction; write a small intact one."""
    first, second, third, small, *_ = sorted((folder / "test_upload").iterdir())
    first.write_bytes(b"<!DOCTYPE html><title>404</title>")
    second.write_bytes(b"")
    third.write_bytes(third.read_bytes()[:900])
    (folder / "test_upload/other.jpg").write_bytes(b"")
    Image.new("RGB", (20, 12)).save(small)


def test_unreadable_test_images_are_limited_and_counted_apart(folder: Path) -> None:
    break_test_images(folder)
    index, context = build_index(folder, CONFIG), CheckContext(read_layout(folder), CONFIG)
    assert len(unreadable_test_images(index, context)) == 3
    with pytest.raises(DataError, match=r"\b3 of 10 test images .*validation\.max_unreadable_test_fraction"):
        raise_on_errors(find_problems(index, context))
    tolerant = Validation(min_images_per_class=5, max_unusable_fraction=0.1, max_unreadable_test_fraction=0.3)
    findings = find_problems(index, CheckContext(context.layout, tolerant))
    raise_on_errors(findings)
    assert (findings.counts["empty"], findings.counts["too_small"]) == (3, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Validation(min_images_per_class=7), r"7 usable images .*0 \(6\).*validation.min_images_per_class"),
        (Validation(min_images_per_class=5, max_unusable_fraction=0.01),
         r"unusable \(first: train/0/.*validation.max_unusable_fraction"),
        (Validation(min_images_per_class=5, min_side=1000), r"5 usable images .*9 \(0\)"),
    ],
)
def test_data_beyond_the_limits_are_rejected(folder: Path, config: Validation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        raise_on_errors(check(folder, config))


def test_a_test_id_without_an_image_is_named(folder: Path) -> None:
    missing = min((folder / "test_upload").iterdir())
    missing.unlink()
    with pytest.raises(DataError, match=rf"1 of 10 ids in sample-submission\.csv .*{missing.name}"):
        raise_on_errors(check(folder))


def test_an_image_of_a_class_that_the_data_do_not_have_is_rejected(folder: Path) -> None:
    (folder / "extra-data/0/sedan").mkdir(parents=True)
    shutil.copy(min((folder / "train/0").iterdir()), folder / "extra-data/0/sedan/x.jpg")
    layout = read_layout(folder)
    with pytest.raises(DataError, match=r"'sedan' .*extra-data/0/sedan/x\.jpg"):
        raise_on_errors(find_problems(build_index(folder, CONFIG, layout), CheckContext(layout, CONFIG)))


def test_data_without_a_sample_submission_need_no_test_images(folder: Path) -> None:
    (folder / "sample-submission.csv").unlink()
    shutil.rmtree(folder / "test_upload")
    raise_on_errors(check(folder))


def test_two_classes_that_are_copies_of_each_other_are_rejected(folder: Path) -> None:
    for path in (folder / "train" / "9").iterdir():
        path.unlink()
    for path in (folder / "train" / "8").iterdir():
        shutil.copy(path, folder / "train" / "9" / f"copy-{path.name}")
    assert conflicting_clusters(build_index(folder, CONFIG))
    with pytest.raises(DataError, match=r"8 .0., 9 .0."):
        raise_on_errors(check(folder))


def test_a_message_lists_only_the_first_of_thousands_of_classes() -> None:
    labels = [str(number) for number in (*range(196), *range(1000, 4000))]
    ids = [f"{label}.jpg" for label in labels]
    index = pd.DataFrame({
        "id": ids, "path": [f"train/{label}/a.jpg" for label in labels], "label": labels, "cluster": range(len(labels)),
        "source": ["train"] * 196 + ["extra"] * 3000, "problem": "", "problem_kind": "", "warning": "",
        "format": "JPEG", "mode": "RGB", "is_transparent": False, "has_exif_orientation": False, "decode_warning": "",
        "width": 64, "height": 48, "brightness": 100.0, "contrast": 50.0, "sharpness": 0.5})
    context = CheckContext(Layout(index, tuple(labels[:196]), "accuracy", None, ()), Validation())
    with pytest.raises(DataError, match=r"0, 1, 2, .*, 19 and 176 more\.") as error:
        raise_on_errors(find_problems(index, context))
    assert len(str(error.value)) < 10_000
