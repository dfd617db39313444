"""Copies planted among different pictures: found, and nothing else."""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.config import Duplicates
from carclf.dataset.duplicates import describe_clusters, find_clusters
from carclf.dataset.matching import thumbnail, thumbnail_difference
from carclf.dataset.near_hashes import near_pairs
from carclf.demo.rendering import car_image
from carclf.images.decode import Pixels, decode
from carclf.images.hashes import perceptual_hash, pixels_sha256

SETTINGS = Duplicates()
Load = Callable[[int], Pixels]


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def scene(seed: int) -> Pixels:
    coarse = np.random.default_rng(seed).integers(30, 220, (9, 12, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC))


def index_of(files: dict[str, bytes]) -> tuple[pd.DataFrame, Load]:
    """The index of files by path (``train/<class>/…`` or ``test_upload/…``), and what decodes a row's picture."""
    rows = []
    for path, data in files.items():
        pixels = decode(data)
        label = int(path.split("/")[1]) if path.startswith("train/") else -1
        rows.append({"id": path.split("/")[-1], "path": path, "label": label, "problem": "",
                     "sha256": hashlib.sha256(data).hexdigest(), "pixels_sha256": pixels_sha256(pixels),
                     "phash": perceptual_hash(pixels)})
    names = list(files)
    return pd.DataFrame(rows).astype({"phash": "uint64"}), lambda position: decode(files[names[position]])


def clusters(files: dict[str, bytes]) -> list[set[str]]:
    index, load = index_of(files)
    index = index.assign(cluster=find_clusters(index, load, SETTINGS))
    return sorted(({member["path"] for member in one["members"]} for one in describe_clusters(index)), key=sorted)


CHANGES: dict[str, Callable[[Pixels], bytes]] = {
    "bytes": lambda pixels: jpeg(pixels) + b"\0",
    "recompressed": lambda pixels: jpeg(pixels, 35),
    "smaller": lambda pixels: jpeg(cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)),
    "brighter": lambda pixels: jpeg(cv2.convertScaleAbs(pixels, alpha=1.1, beta=8)),
    "darker": lambda pixels: jpeg(cv2.convertScaleAbs(pixels, alpha=0.75)),
    "cropped": lambda pixels: jpeg(pixels[4:-3, 5:-6]),
    "all at once": lambda pixels: jpeg(cv2.resize(pixels[3:-2, 2:-4], (200, 150)), 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_different_pictures_are_not(change: str) -> None:
    originals = {f"train/{seed % 4}/{seed}.jpg": scene(seed) for seed in range(40)}
    files = {path: jpeg(pixels) for path, pixels in originals.items()}
    planted = [f"train/{seed % 4}/{seed}.jpg" for seed in range(0, 40, 4)]
    copies = {path.replace(".jpg", "-copy.jpg"): CHANGES[change](originals[path]) for path in planted}
    found = clusters(files | copies)
    assert found == sorted(({path, path.replace(".jpg", "-copy.jpg")} for path in planted), key=sorted)


def test_equal_pixels_in_another_format_are_an_exact_copy_between_train_and_test() -> None:
    data = jpeg(scene(0))
    png = cv2.imencode(".png", decode(data)[:, :, ::-1])[1].tobytes()
    index, load = index_of({"train/0/a.jpg": data, "test_upload/b.jpg": png, "train/1/c.jpg": jpeg(scene(1))})
    index = index.assign(cluster=find_clusters(index, load, SETTINGS))
    assert [(one["kind"], one["in_train_and_test"], one["has_conflicting_labels"]) for one in describe_clusters(index)] == [
        ("exact", True, False)]
    assert index["cluster"].dtype == np.int64 and index["cluster"].nunique() == 2


def test_a_picture_under_two_classes_is_told_first_as_a_sure_label_error() -> None:
    files = {"train/0/a.jpg": jpeg(scene(0)), "train/3/b.jpg": jpeg(scene(0), 50), "train/1/c.jpg": jpeg(scene(1)),
             "train/1/d.jpg": jpeg(scene(1)), "train/1/e.jpg": jpeg(scene(1))}
    index, load = index_of(files)
    found = describe_clusters(index.assign(cluster=find_clusters(index, load, SETTINGS)))
    assert [(one["has_conflicting_labels"], one["labels"], one["kind"], one["num_members"]) for one in found] == [
        (True, [0, 3], "near", 2), (False, [1], "exact", 3)]


def test_rendered_cars_are_different_pictures() -> None:
    random = np.random.default_rng(0)
    files = {f"train/{number % 10}/{number}.jpg": car_image(number % 10, random) for number in range(120)}
    assert clusters(files) == []


def test_the_same_clusters_come_out_of_any_order_of_the_rows_and_beside_other_pictures() -> None:
    files = {f"train/0/{seed}{kind}.jpg": jpeg(scene(seed), quality)
             for seed in range(12) for kind, quality in (("a", 90), ("b", 60))}
    index, load = index_of(files)
    found = find_clusters(index, load, SETTINGS)
    order = np.random.default_rng(0).permutation(len(index))
    again = find_clusters(index.iloc[order], lambda position: load(order[position]), SETTINGS)
    pd.testing.assert_series_equal(again.sort_index(), found)
    fewer, load = index_of(dict(list(files.items())[:8]))
    assert find_clusters(fewer, load, SETTINGS).tolist() == found[:8].tolist()


def test_two_thousand_flat_pictures_are_one_cluster_without_all_their_pairs() -> None:
    random, looked = np.random.default_rng(0), []
    flat = [np.full((40, 60, 3), 128, np.uint8) + random.integers(0, 2, (40, 60, 3), np.uint8) for _ in range(2000)]
    index = pd.DataFrame({"sha256": [hashlib.sha256(one).hexdigest() for one in flat], "problem": "",
                          "phash": np.array([perceptual_hash(one) for one in flat], np.uint64)})
    index = index.assign(pixels_sha256=index["sha256"])
    found = find_clusters(index, lambda position: looked.append(position) or flat[position], SETTINGS)
    assert found.nunique() == 1 and len(looked) < 5000


def test_unlike_pictures_of_one_hash_are_not_compared_without_end() -> None:
    pictures, looked = [scene(seed) for seed in range(100)], []
    index = pd.DataFrame({"sha256": [hashlib.sha256(one).hexdigest() for one in pictures], "problem": "",
                          "phash": np.zeros(100, np.uint64)})
    index = index.assign(pixels_sha256=index["sha256"])
    found = find_clusters(index, lambda position: looked.append(position) or pictures[position], SETTINGS)
    assert found.nunique() == 100 and len(looked) < 150


def test_a_chain_of_pictures_that_each_resemble_the_next_is_one_cluster_without_a_cut() -> None:
    wide = cv2.resize(np.random.default_rng(0).integers(30, 220, (9, 60, 3), np.uint8), (1600, 240),
                      interpolation=cv2.INTER_CUBIC)
    frames = {f"train/0/{left:04}.jpg": jpeg(np.ascontiguousarray(wide[:, left : left + 320]))
              for left in range(0, 640, 3)}
    index, load = index_of(frames)
    found = find_clusters(index, load, SETTINGS).tolist()
    thumbnails = [thumbnail(load(position)) for position in range(len(index))]
    pairs = [pair for ends in near_pairs(index["phash"].to_numpy(), SETTINGS.max_hash_distance)
             for pair in zip(*(end.tolist() for end in ends), strict=True)]
    alike = [pair for pair in pairs if thumbnail_difference(*(thumbnails[one] for one in pair)) <= SETTINGS.max_pixel_difference]
    assert len(alike) > 200 and not [pair for pair in alike if len({found[one] for one in pair}) > 1]
    assert len(set(found)) < len(frames) / 10
