"""Text and JSON files that list the images of a subset, such as train.txt and splits.json."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from carclf.dataset.detection.result import Layout
from carclf.errors import ConfigError, DataError

NAMES = [f"{n}.jpg" for n in range(8)]
IN_FOLDERS = [f"{['suv', 'van'][n % 2]}/{name}" for n, name in enumerate(NAMES)]


def sources_of(layout: Layout) -> dict[str, int]:
    return layout.images["source"].value_counts().to_dict()


def lists_of(*names: str, every: int = 4) -> dict[str, str]:
    """Return a list of images per name: the n-th image is in the list n % every, or in none."""
    return {name: "".join(f"{path}\n" for n, path in enumerate(IN_FOLDERS) if n % every == number)
            for number, name in enumerate(names)}


@pytest.mark.parametrize("line", [str, lambda line: line.removesuffix(".jpg"), lambda line: f"{line} 3 1"])
def test_text_files_with_the_names_of_subsets_list_their_images(layout_of: Any, line: Callable[[str], str]) -> None:
    files = {name: "".join(f"{line(path)}\n" for path in text.split())
             for name, text in lists_of("meta/train.txt", "meta/val.txt", "meta/test.txt").items()}
    layout = layout_of([f"images/{path}" for path in IN_FOLDERS], files)
    assert sources_of(layout) == {"train": 4, "val": 2, "holdout": 2}
    assert not layout.findings


@pytest.mark.parametrize("text", [
    "Taken in 2019\nby hand\n", "", "0 images are dark\n1 images are blurred\n", "0 0.5\n1 0.25\n2 0.125\n"])
@pytest.mark.parametrize("name", ["train.txt", "test.txt"])
def test_text_files_without_images_are_no_lists(layout_of: Any, name: str, text: str) -> None:
    layout = layout_of(IN_FOLDERS, {name: text, "notes.txt": "0.jpg\n"})
    assert sources_of(layout) == {"train": 8}
    assert not layout.findings
    assert set(layout.ignored) == {name, "notes.txt"}


@pytest.mark.parametrize("line", [
    "{path},0", "{path};x", '"{path}"', "{upper}", "{stem}.png", "https://example.com/{path}?raw=1", "{path}\t0",
    "C:\\data\\{windows}"])
def test_lines_may_be_written_in_other_ways(layout_of: Any, line: str) -> None:
    images = [f"images/{folder}/{folder[:3]}{n} a.jpg" for n, folder in enumerate(["suv 1", "van"] * 4)]
    paths = [path.removeprefix("images/") for path in images]
    lists = {f"{name}.txt": "".join(line.format(
        path=path, upper=path.upper(), stem=path.removesuffix(".jpg"), windows=path.replace("/", "\\")) + "\n"
        for path in part) for name, part in (("train", paths[:6]), ("test", paths[6:]))}
    layout = layout_of(images, lists)
    assert sources_of(layout) == {"train": 6, "holdout": 2}
    assert not layout.findings and not layout.ignored


@pytest.mark.parametrize("name", ["testing_list.txt", "test_images.txt", "suv/test.txt"])
def test_a_list_needs_no_training_list(layout_of: Any, name: str) -> None:
    path = "2.jpg" if "/" in name else "suv/2.jpg"
    assert sources_of(layout_of(IN_FOLDERS, {name: f"{path}\n"})) == {"train": 7, "holdout": 1}


@pytest.mark.parametrize("names", [("trainlist01.txt", "testlist01.txt"), ("trainfiles.txt", "testfiles.txt"),
                                   ("train_val.txt", "test.txt"), ("trainlist.csv", "testlist.csv")])
def test_words_of_a_list_may_be_written_together(layout_of: Any, names: tuple[str, str]) -> None:
    header = "file\n" * names[0].endswith(".csv")
    files = {name: header + "".join(f"{path}\n" for path in paths)
             for name, paths in zip(names, (IN_FOLDERS[:6], IN_FOLDERS[6:]), strict=True)}
    assert sources_of(layout_of(IN_FOLDERS, files)) == {"train": 6, "holdout": 2}


def test_a_split_that_cannot_be_read_is_reported(layout_of: Any) -> None:
    layout = layout_of(IN_FOLDERS, {"train_test_split.txt": "".join(f"{n} {n % 2}\n" for n in range(1, 9))})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]


@pytest.mark.parametrize("name", ["train_test_split.txt", "split.txt", "train_val_split.txt"])
def test_a_list_of_a_split_has_the_subset_in_each_line(layout_of: Any, name: str) -> None:
    text = "".join(f"{path} {['train', 'test'][n // 6]}\n" for n, path in enumerate(IN_FOLDERS))
    assert sources_of(layout_of(IN_FOLDERS, {name: text})) == {"train": 6, "holdout": 2}


@pytest.mark.parametrize(("name", "data"), [
    ("splits.json", {"train": IN_FOLDERS[:5], "val": IN_FOLDERS[5:6], "test": IN_FOLDERS[6:]}),
    ("split.json", {"train": [[path, 0, "x"] for path in IN_FOLDERS[:5]], "val": [[IN_FOLDERS[5], 0, "x"]],
                    "test": [[path, 0, "x"] for path in IN_FOLDERS[6:]]}),
])
def test_json_files_may_list_the_images_of_each_subset(layout_of: Any, name: str, data: object) -> None:
    assert sources_of(layout_of(IN_FOLDERS, {name: json.dumps(data)})) == {"train": 5, "val": 1, "holdout": 2}


def test_a_json_file_may_have_other_keys_and_trainval(layout_of: Any) -> None:
    lists = {"seed": 1, "classes": ["suv", "van"], "train": IN_FOLDERS[:5], "val": IN_FOLDERS[5:6]}
    lists["trainval"] = IN_FOLDERS[:6]
    records = [{"label": "x", "image": path} for path in IN_FOLDERS[6:]]
    layout = layout_of(IN_FOLDERS, {"splits.json": json.dumps(lists | {"test": records})})
    assert sources_of(layout) == {"train": 5, "val": 1, "holdout": 2}
    leaked = json.dumps({"train": IN_FOLDERS[:7], "val": IN_FOLDERS[5:6], "test": IN_FOLDERS[6:]})
    layout = layout_of(IN_FOLDERS, {"splits.json": leaked})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]


def test_a_partition_has_the_subset_and_never_the_labels(layout_of: Any) -> None:
    words = "".join(f"{path} {['train', 'val'][n // 6]}\n" for n, path in enumerate(IN_FOLDERS))
    layout = layout_of(IN_FOLDERS, {"list_eval_partition.txt": f"file partition\n{words}"})
    assert sources_of(layout) == {"train": 6, "val": 2}
    assert not layout.findings
    numbers = "".join(f"{path} {n // 4}\n" for n, path in enumerate(IN_FOLDERS))
    layout = layout_of(IN_FOLDERS, {"list_eval_partition.txt": numbers})
    assert [finding.kind for finding in layout.findings] == ["unused_subsets"]


def test_a_padded_number_before_a_label_is_an_id(layout_of: Any) -> None:
    images = [f"{['suv', 'van'][n % 2]}/{n:03}.jpg" for n in range(8)]
    layout = layout_of(images, {"test.txt": "006 suv\n007 van\n"})
    assert sources_of(layout) == {"train": 6, "holdout": 2}


def test_listed_images_without_labels_are_the_test_set(layout_of: Any) -> None:
    names = [f"images/{name}" for name in NAMES]
    labels = "file,label\n" + "".join(f"{name},{['suv', 'van'][n % 2]}\n" for n, name in enumerate(NAMES[:6]))
    layout = layout_of(names, {"train.csv": labels, "test.txt": "".join(f"{name}\n" for name in NAMES[6:])})
    assert sources_of(layout) == {"train": 6, "test": 2}


def test_labels_in_a_list_are_compared_with_prefixes(layout_of: Any) -> None:
    names = [f"camera{'AB'[n % 2]}_{n}.jpg" for n in range(8)]
    lists = {"train.txt": "".join(f"{name} {['suv', 'van'][n // 4]}\n" for n, name in enumerate(names))}
    with pytest.raises(ConfigError, match=r"train\.txt may have the labels.*data\.label_source to file_names"):
        layout_of([f"images/{name}" for name in names], lists)
    layout = layout_of([], {}, label_source="file_names")
    assert layout.class_names == ("cameraA", "cameraB") and not layout.findings


def test_labels_in_a_list_are_compared_with_class_folders(layout_of: Any) -> None:
    lists = {"train.txt": "".join(f"{name} {['suv', 'van'][n // 4]}\n" for n, name in enumerate(NAMES))}
    layout = layout_of([f"batch_{n % 2}/{name}" for n, name in enumerate(NAMES)], lists)
    assert [finding.kind for finding in layout.findings] == ["unmatched_label_table"]


def test_a_list_of_other_images_is_reported(layout_of: Any) -> None:
    layout = layout_of(IN_FOLDERS, {"test.txt": "suv/20.jpg\nsuv/22.jpg\n"})
    assert sources_of(layout) == {"train": 8}
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("unused_subsets", "test.txt")]


def test_a_training_list_of_all_images_and_trainval_are_no_other_split(layout_of: Any) -> None:
    lists = lists_of("train.txt", "val.txt", "test.txt")
    lists["trainval.txt"] = lists["train.txt"] + lists["val.txt"]
    assert sources_of(layout_of(IN_FOLDERS, lists)) == {"train": 4, "val": 2, "holdout": 2}
    del lists["trainval.txt"]
    lists["train_sizes.csv"] = "file,width\n" + "".join(f"{path},8\n" for path in IN_FOLDERS)
    del lists["train.txt"]
    assert sources_of(layout_of([], lists | {"trainval.txt": ""})) == {"train": 4, "val": 2, "holdout": 2}


def test_text_files_next_to_prefixes_of_names_list_their_images(layout_of: Any) -> None:
    names = [f"{['suv', 'van'][n % 2]}_{n}" for n in range(8)]
    lists = {"annotations/trainval.txt": "".join(f"{name} 1 1\n" for name in names[:6]),
             "annotations/test.txt": "".join(f"{name} 1 1\n" for name in names[6:]),
             "annotations/list.txt": "#Image CLASS\n" + "".join(f"{name} 1\n" for name in names)}
    layout = layout_of([f"images/{name}.jpg" for name in names], lists)
    assert sources_of(layout) == {"train": 6, "holdout": 2}


def test_lists_of_several_splits_are_reported_and_not_used(layout_of: Any) -> None:
    lists = lists_of("train1.txt", "val1.txt", "val2.txt", "train2.txt", every=2)
    lists |= {"val2.txt": lists["train1.txt"], "train2.txt": lists["val1.txt"]}
    layout = layout_of(IN_FOLDERS, lists)
    assert sources_of(layout) == {"train": 8}
    (finding,) = layout.findings
    assert (finding.kind, finding.path) == ("unused_subsets", "val1.txt")
    assert not layout_of(IN_FOLDERS, lists, subset_column="none").findings


def test_lists_that_may_have_the_labels_are_named(layout_of: Any) -> None:
    lists = {"train.txt": "".join(f"{name} {n % 2}\n" for n, name in enumerate(NAMES))}
    with pytest.raises(DataError, match=r"may be in train\.txt.*CSV"):
        layout_of([f"images/{name}" for name in NAMES], lists)


def test_records_in_a_file_called_like_a_subset_may_have_the_labels(layout_of: Any) -> None:
    names = [f"camera{n // 8}_{n}.jpg" for n in range(16)]
    files = {f"{subset}.json": json.dumps([
        {"image": name, "label": ["suv", "van"][n % 2]} for n, name in enumerate(names) if (n < 12) == is_train])
        for subset, is_train in (("train", True), ("test", False))}
    layout = layout_of([f"images/{name}" for name in names], files)
    assert layout.class_names == ("suv", "van")
    assert sources_of(layout) == {"train": 12, "holdout": 4}


def test_lists_by_class_in_json_are_lists(layout_of: Any) -> None:
    files = {f"meta/{subset}.json": json.dumps({
        name: [path.removesuffix(".jpg") for path in paths if path.startswith(name)] for name in ("suv", "van")})
        for subset, paths in (("train", IN_FOLDERS[:6]), ("test", IN_FOLDERS[6:]))}
    assert sources_of(layout_of(IN_FOLDERS, files)) == {"train": 6, "holdout": 2}


def test_numbers_of_as_many_digits_as_all_images_are_ids(layout_of: Any) -> None:
    images = [f"{['suv', 'van'][n % 2]}/{n:04}.jpg" for n in range(996, 1004)]
    layout = layout_of(images, {"test.txt": "1002 suv\n1003 van\n", "val.txt": "0996 suv\n"})
    assert sources_of(layout) == {"train": 5, "val": 1, "holdout": 2}


def test_long_numbers_of_different_lengths_are_ids(layout_of: Any) -> None:
    numbers = range(99996, 100004)
    images = [f"{['suv', 'van'][n % 2]}/{n}.jpg" for n in numbers]
    lists = {"test.txt": "100002 suv\n100003 van\n", "val.txt": "99996 suv\n"}
    assert sources_of(layout_of(images, lists)) == {"train": 5, "val": 1, "holdout": 2}
