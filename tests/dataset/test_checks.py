"""What validation finds in a folder with known faults."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from carclf.config import Duplicates, Validation
from carclf.dataset.checks import find_problems, raise_on_errors, read_context
from carclf.dataset.duplicates import find_clusters
from carclf.dataset.findings import Findings
from carclf.dataset.image_checks import conflicting_clusters
from carclf.dataset.indexing import write_index
from carclf.dataset.inspection import make_pixel_loader
from carclf.dataset.label_table import read_sample_submission, read_train_csv
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


SETTINGS = Validation(min_images_per_class=5)


def indexed(folder: Path, settings: Validation = SETTINGS) -> pd.DataFrame:
    write_index(folder, folder / "index.parquet", settings)
    index = pd.read_parquet(folder / "index.parquet")
    return index.assign(cluster=find_clusters(index, make_pixel_loader(folder, index["path"]), Duplicates()))


def found(folder: Path, settings: Validation = SETTINGS) -> Findings:
    return find_problems(indexed(folder, settings), read_context(folder, settings)[0])


def test_the_planted_faults_are_found_and_no_others(folder: Path) -> None:
    index = indexed(folder)
    broken = index[index["problem"] != ""].set_index("id")["problem"]
    assert sorted(broken.index) == ["900001.jpg", "900002.jpg", "900003.jpg"]
    assert broken["900002.jpg"] == "cannot be decoded: the file is empty"
    assert sorted(index[index["sha256"].duplicated(keep=False)].groupby("sha256").size()) == [2, 2]
    raise_on_errors(found(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Validation(min_images_per_class=7), "Class '0' has 6 usable images, copies not counted; at least 7"),
        (Validation(min_images_per_class=5, max_unusable_fraction=0.01), "of the images are unusable (first: train/0/"),
        (Validation(min_images_per_class=5, min_side=1000), "Class '9' has 0 usable images"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(folder: Path, settings: Validation, message: str) -> None:
    with pytest.raises(DataError) as error:
        raise_on_errors(found(folder, settings))
    assert message in str(error.value)


def test_an_id_of_the_sample_without_image_is_refused_by_name(folder: Path) -> None:
    lost = min((folder / "test_upload").iterdir())
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 ids of sample-submission.csv have no image.*{lost.name}"):
        raise_on_errors(found(folder))


def test_another_competitions_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "sedan").mkdir()
    shutil.copy(min((folder / "train/0").iterdir()), folder / "train/sedan/x.jpg")
    with pytest.raises(DataError, match="Is this the right competition"):
        raise_on_errors(found(folder))
    with pytest.raises(DataError, match="No pictures"):
        write_index(tmp_path / "nothing", tmp_path / "index.parquet", SETTINGS)
    (folder / "sample-submission.csv").write_text("Name,Label\n")
    with pytest.raises(DataError, match="expected Id,Category"):
        read_sample_submission(folder)


@pytest.mark.parametrize(
    "text", ["", "Id,Category\n", "\xff\xfe", "Id,Category\na,0\na,0\n", "Name\na\n", 'Id,Category\n"a,0\n']
)
def test_a_sample_that_is_no_table_of_ids_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sample-submission.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="sample-submission"):
        read_sample_submission(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,Category\na.jpg,1\n\n1.jpg,3,4\n", "line 4 has 3 values, its header 2"),
        ("Id,Category\na.jpg\n", "line 2 has 1 values, its header 2"),
        ('Id,Category\n"a\nb",0\nc,1,2\n', "line 4 has 3 values"),
    ],
)
def test_a_line_with_too_many_values_or_too_few_is_refused_by_its_number(
    tmp_path: Path, text: str, message: str
) -> None:
    for name in ("sample-submission.csv", "train.csv"):
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"sample-submission.csv cannot be read: {message}"):
        read_sample_submission(tmp_path)
    assert message in str(read_train_csv(tmp_path))


def test_a_train_table_without_rows_is_told_and_the_folders_say_the_classes(folder: Path) -> None:
    (folder / "train.csv").write_text("Id,Category\n")
    context, of_tables = read_context(folder, SETTINGS)
    assert context.table is None and [one.kind for one in of_tables] == ["invalid_train_csv"]
    assert "train.csv has no rows" in of_tables[0].text
    raise_on_errors(find_problems(indexed(folder), context))


def test_an_id_named_na_is_an_id(tmp_path: Path) -> None:
    (tmp_path / "sample-submission.csv").write_text("Id,Category\nNA,0\n")
    assert list(read_sample_submission(tmp_path)["Id"]) == ["NA"]


def test_a_class_of_copies_of_another_class_is_refused(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cars"
    shutil.copytree(rendered, folder)
    for path in (folder / "train" / "9").iterdir():
        path.unlink()
    for path in (folder / "train" / "8").iterdir():
        shutil.copy(path, folder / "train" / "9" / f"copy-{path.name}")
    assert conflicting_clusters(indexed(folder))
    with pytest.raises(DataError, match=r"Class '8' has 0 usable images.*Class '9' has 0 usable images"):
        raise_on_errors(found(folder))
