"""Masks are recognized and left out, but no photographs: a class or a file may have the name of a mask."""

import json
from typing import Any

import pytest

from carclf.errors import DataError


@pytest.mark.parametrize(("images", "masks", "class_names"), [
    (["{label}/images/{n}.png"], ["{label}/masks/{n}.png"], ("covid", "normal")),
    (["{label}/{label} ({n}).png"], ["{label}/{label} ({n})_mask.png", "{label}/{label} ({n})_mask_1.png"],
     ("covid", "normal")),
    (["images/{label}_{n}.jpg"], ["annotations/trimaps/{label}_{n}.png"], ("covid", "normal")),
    (["images/{label}_{n}.jpg"], ["masks/{label}_{n}_mask.png"], ("covid", "normal")),
    (["{label}/Imgs/{n}.jpg"], ["{label}/Imgs/{n}.png"], ("covid", "normal")),
    (["{label}/{n}.jpg"], ["{label}/{n}_label.bmp"], ("covid", "normal")),
    (["scans/{label}_{n}.jpg"], ["masks/{label}_{n}.png"], ("covid", "normal")),
])
def test_masks_are_not_used(
    layout_of: Any, images: list[str], masks: list[str], class_names: tuple[str, ...]
) -> None:
    names, of_masks = ([path.format(label=label, n=n) for path in paths for label in class_names for n in range(4)]
                       for paths in (images, masks))
    layout = layout_of([*names, *of_masks])
    assert layout.class_names == class_names and set(layout.images["path"]) == set(names)
    assert [(finding.kind, finding.path) for finding in layout.findings] == [("ignored_data", min(of_masks))]


@pytest.mark.parametrize("paths", [
    ["images/{}.png", "masks/{}.png"], ["scans/{}.png", "masks/{}.png"], ["CXR_png/{}.png", "mask/{}_mask.png"],
    ["VOC/JPEGImages/{}.jpg", "VOC/SegmentationClassPNG/{}.png", "VOC/SegmentationClassVisualization/{}.jpg"]])
def test_images_and_their_masks_alone_have_no_labels(layout_of: Any, paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"no labels.* called like masks"):
        layout_of([path.format(n) for path in paths for n in range(4)])


def test_two_files_of_one_stem_may_be_different_images(layout_of: Any) -> None:
    images = [f"{label}/{n}.{suffix}" for label in ("oak", "elm") for n, suffix in ((0, "jpg"), (0, "png"), (1, "png"))]
    assert len(layout_of(images).images) == 6


@pytest.mark.parametrize("folders", [("with_mask", "without_mask"), ("mask", "no_mask"), ("mask", "bare"),
                                     ("images/mask", "images/bare"), ("face", "masks", "helmet"), ("labels", "notes")])
def test_a_class_may_be_called_mask(layout_of: Any, folders: tuple[str, str]) -> None:
    layout = layout_of([f"{folder}/{n}.png" for folder in folders for n in range(4)])
    assert len(layout.images) == 4 * len(folders) and layout.findings == ()


@pytest.mark.parametrize(("image", "mask"), [
    ("CUB_200_2011/images/{}/{}.jpg", "segmentations/{}/{}.png"), ("{}/images/{}.png", "{}/ground_truth/{}.png"),
    ("{}/images/{}.png", "{}/GT/{}.png"), ("{}/{}.jpg", "{}/{}_gt.png"), ("images/{}/{}.jpg", "masks/{}/{}.png"),
])
def test_masks_in_the_folders_of_the_classes_are_not_used(layout_of: Any, image: str, mask: str) -> None:
    names, masks = ([path.format(label, n) for label in ("finch", "jay") for n in range(3)] for path in (image, mask))
    layout = layout_of([*names, *masks])
    assert layout.class_names == ("finch", "jay") and set(layout.images["path"]) == set(names)


@pytest.mark.parametrize("top", ["Lung Segmentation Data", "labels", "dataset_with_masks", "Images and Masks"])
def test_masks_are_recognized_below_a_folder_that_is_called_like_masks(layout_of: Any, top: str) -> None:
    names, masks = ([f"{top}/{label}/{folder}/{n}.png" for label in ("crack", "ok") for n in range(3)]
                    for folder in ("images", "lung masks"))
    layout = layout_of([*names, *masks])
    assert layout.class_names == ("crack", "ok") and set(layout.images["path"]) == set(names)


def test_folders_called_like_those_of_the_images_of_several_classes_are_masks(layout_of: Any) -> None:
    names, masks = ([f"fish/{label}/{label}{suffix}/{n}.png" for label in ("Shrimp", "Trout") for n in range(3)]
                    for suffix in ("", " GT"))
    layout = layout_of([*names, *masks])
    assert layout.class_names == ("Shrimp", "Trout") and set(layout.images["path"]) == set(names)


def test_a_single_pair_of_folders_called_like_masks_may_be_two_classes(layout_of: Any) -> None:
    pair = [f"{label}/{n}.png" for label in ("face", "face_mask") for n in range(3)]
    assert layout_of(pair).class_names == ("face", "face_mask")


def paths_of(layout: Any) -> set[str]:
    return set(layout.images["path"])


def test_classes_called_like_each_other_in_each_subset_are_no_masks(layout_of: Any) -> None:
    images = [f"{subset}/{label}/{n}.png" for subset in ("train", "val") for label in ("black", "black_label", "red")
              for n in range(3)]
    assert layout_of(images).class_names == ("black", "black_label", "red")


def test_a_few_images_of_another_format_are_no_copies(layout_of: Any) -> None:
    images = [f"{label}/{n}.jpg" for label in ("oak", "elm") for n in range(8)]
    images += [f"{label}/{n}.png" for label in ("oak", "elm") for n in range(3)]
    assert len(layout_of(images).images) == 22


@pytest.mark.parametrize("table", [
    "file,kind\n0.png,a\n1.jpg,b\n2.png,a\n3.jpg,b\n", "file,kind\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n",
    "path,kind\nimages/0.png,a\nimages/1.png,b\nimages/2.png,a\nimages/3.png,b\n"])
def test_files_that_a_table_lists_with_their_extension_are_images(layout_of: Any, table: str) -> None:
    listed = {f"images/{row.partition(',')[0].removeprefix('images/')}" for row in table.split()[1:]}
    layout = layout_of([f"images/{n}.{suffix}" for n in range(4) for suffix in ("jpg", "png")], {"labels.csv": table})
    assert set(layout.images.loc[layout.images["label"] != "", "path"]) == listed


def test_files_that_coco_json_lists_are_images(layout_of: Any) -> None:
    files = [f"{n}_label.png" for n in range(4)]
    data = {"images": [{"id": n, "file_name": name} for n, name in enumerate(files)],
            "annotations": [{"image_id": n, "category_id": n % 2} for n in range(4)],
            "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}
    layout = layout_of([*(f"images/{name}" for name in files), *(f"images/{n}.jpg" for n in range(4))],
                       {"coco.json": json.dumps(data)})
    assert set(layout.images.loc[layout.images["label"] != "", "path"]) == {f"images/{name}" for name in files}


@pytest.mark.parametrize("column", ["mask", "annotation"])
def test_masks_next_to_the_images_of_a_table_are_not_used(layout_of: Any, column: str) -> None:
    images = [f"images/{n}.jpg" for n in range(4)]
    table = f"image,{column},kind\n" + "".join(f"{n}.jpg,{n}_mask.png,{'ab'[n % 2]}\n" for n in range(4))
    layout = layout_of([*images, *(f"images/{n}_mask.png" for n in range(4))], {"labels.csv": table})
    assert paths_of(layout) == set(images)


def test_a_table_of_masks_alone_makes_them_no_images(layout_of: Any) -> None:
    images = [f"{label}/{n}.jpg" for label in "ab" for n in range(3)]
    masks = [path.replace(".jpg", "_mask.png") for path in images]
    table = "mask,area\n" + "".join(f"{path},{n}\n" for n, path in enumerate(masks))
    assert paths_of(layout_of([*images, *masks], {"areas.csv": table})) == set(images)


@pytest.mark.parametrize("table", [
    "path,size\n{rows}", "sha256,file\n{swapped}"])
def test_a_list_of_all_files_makes_masks_no_images(layout_of: Any, table: str) -> None:
    images = [f"{label}/{n}.png" for label in ("benign", "malignant") for n in range(4)]
    masks = [path.replace(".png", "_mask.png") for path in images]
    rows = "".join(f"{path},{n}\n" for n, path in enumerate([*images, *masks]))
    swapped = "".join(f"ab{n},{path}\n" for n, path in enumerate([*images, *masks]))
    layout = layout_of([*images, *masks], {"files.csv": table.format(rows=rows, swapped=swapped)})
    assert paths_of(layout) == set(images)


def test_a_folder_of_masks_that_are_called_so_is_no_class(layout_of: Any) -> None:
    with pytest.raises(DataError, match="no labels"):
        layout_of([*(f"train/{n:03}_01.jpg" for n in range(5)), *(f"train_masks/{n:03}_01_mask.gif" for n in range(5))])


def test_a_photograph_of_a_label_is_no_mask(layout_of: Any) -> None:
    images = [*(f"{wine}/{n}.png" for wine in ("red", "white") for n in range(4)), "red/0_label.png"]
    assert paths_of(layout_of(images)) == set(images)


@pytest.mark.parametrize("folders", [("LabelPrinter", "Laser"), ("FordGT", "Audi"), ("MaskedFace", "Face"),
                                     ("truth", "dare"), ("face_masks", "goggles")])
@pytest.mark.parametrize("top", ["", "images/", "train/images/"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_classes_with_a_word_for_masks_in_their_names_are_kept(
    layout_of: Any, folders: tuple[str, str], top: str, suffix: str
) -> None:
    images = [f"{top}{folder}/{n}.{suffix}" for folder in folders for n in range(4)]
    assert paths_of(layout_of(images)) == set(images)
