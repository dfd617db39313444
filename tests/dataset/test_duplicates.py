"""Clusters of copies and near-copies planted among different images."""

import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.config import Duplicates
from carclf.dataset.duplicates import describe_clusters, find_clusters
from carclf.dataset.near_hashes import near_pairs
from carclf.dataset.pixel_matching import thumbnail, thumbnail_difference
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


def build_index(files: dict[str, bytes]) -> tuple[pd.DataFrame, Load]:
    """The index of files by path (``train/<class>/*`` or ``test_upload/*``) and the loader of a row's pixels."""
    rows = []
    for path, data in files.items():
        pixels = decode(data)
        label = path.split("/")[1] if path.startswith("train/") else ""
        rows.append({"id": path.split("/")[-1], "path": path, "label": label, "problem": "",
                     "sha256": hashlib.sha256(data).hexdigest(), "pixels_sha256": pixels_sha256(pixels),
                     "phash": perceptual_hash(pixels), "flipped_phash": perceptual_hash(cv2.flip(pixels, 1))})
    names = list(files)
    index = pd.DataFrame(rows).astype({"phash": "uint64", "flipped_phash": "uint64"})
    return index, lambda position: decode(files[names[position]])


def describe(files: dict[str, bytes]) -> list[dict]:
    index, load = build_index(files)
    return describe_clusters(index.assign(cluster=find_clusters(index, load, SETTINGS)))


def member_paths(files: dict[str, bytes]) -> list[set[str]]:
    return sorted(({member["path"] for member in cluster["members"]} for cluster in describe(files)), key=sorted)


CHANGES: dict[str, Callable[[Pixels], bytes]] = {
    "bytes": lambda pixels: jpeg(pixels) + b"\0",
    "recompressed": lambda pixels: jpeg(pixels, 35),
    "smaller": lambda pixels: jpeg(cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)),
    "brighter": lambda pixels: jpeg(cv2.convertScaleAbs(pixels, alpha=1.1, beta=8)),
    "darker": lambda pixels: jpeg(cv2.convertScaleAbs(pixels, alpha=0.75)),
    "cropped": lambda pixels: jpeg(pixels[4:-3, 5:-6]),
    "flipped": lambda pixels: jpeg(cv2.flip(pixels, 1), 60),
    "flipped and cropped": lambda pixels: jpeg(cv2.flip(pixels[3:-2, 2:-4], 1)),
    "all at once": lambda pixels: jpeg(cv2.resize(pixels[3:-2, 2:-4], (200, 150)), 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_changed_copies_share_a_cluster(change: str) -> None:
    originals = {f"train/{seed % 4}/{seed}.jpg": scene(seed) for seed in range(40)}
    files = {path: jpeg(pixels) for path, pixels in originals.items()}
    planted = [f"train/{seed % 4}/{seed}.jpg" for seed in range(0, 40, 4)]
    copies = {path.replace(".jpg", "-copy.jpg"): CHANGES[change](originals[path]) for path in planted}
    expected = sorted(({path, path.replace(".jpg", "-copy.jpg")} for path in planted), key=sorted)
    assert member_paths(files | copies) == expected


def test_equal_pixels_in_another_format_are_an_exact_copy() -> None:
    data = jpeg(scene(0))
    png = cv2.imencode(".png", decode(data)[:, :, ::-1])[1].tobytes()
    [cluster] = describe({"train/0/a.jpg": data, "test_upload/b.jpg": png, "train/1/c.jpg": jpeg(scene(1))})
    assert (cluster["match"], cluster["in_train_and_test"], cluster["has_conflicting_labels"]) == ("exact", True, False)


def test_clusters_with_conflicting_labels_are_listed_first() -> None:
    clusters = describe({
        "train/0/a.jpg": jpeg(scene(0)), "train/3/b.jpg": jpeg(scene(0), 50), "train/1/c.jpg": jpeg(scene(1)),
        "train/1/d.jpg": jpeg(scene(1)), "train/1/e.jpg": jpeg(scene(1))})
    keys = ("has_conflicting_labels", "labels", "match", "num_members")
    assert [tuple(cluster[key] for key in keys) for cluster in clusters] == [
        (True, ["0", "3"], "near", 2), (False, ["1"], "exact", 3)]


def test_the_flip_of_a_training_image_in_the_test_set_is_reported() -> None:
    files = {"train/0/a.jpg": scene(0), "test_upload/b.jpg": cv2.flip(scene(0), 1), "train/1/c.jpg": scene(1)}
    [cluster] = describe({path: jpeg(pixels) for path, pixels in files.items()})
    assert (cluster["match"], cluster["in_train_and_test"]) == ("near", True)


def test_rendered_cars_are_different_images() -> None:
    random = np.random.default_rng(0)
    files = {f"train/{number % 10}/{number}.jpg": car_image(number % 10, random) for number in range(120)}
    assert member_paths(files) == []


def test_clusters_depend_neither_on_the_order_nor_on_other_images() -> None:
    files = {f"train/0/{seed}{kind}.jpg": jpeg(scene(seed), quality)
             for seed in range(12) for kind, quality in (("a", 90), ("b", 60))}
    index, load = build_index(files)
    clusters = find_clusters(index, load, SETTINGS)
    assert clusters.dtype == np.int64
    assert clusters.nunique() == 12
    order = np.random.default_rng(0).permutation(len(index))
    shuffled = find_clusters(index.iloc[order], lambda position: load(order[position]), SETTINGS)
    pd.testing.assert_series_equal(shuffled.sort_index(), clusters)
    fewer, load = build_index(dict(list(files.items())[:8]))
    assert find_clusters(fewer, load, SETTINGS).tolist() == clusters[:8].tolist()


def cluster_counting_loads(images: Sequence[Pixels], hashes: Sequence[int]) -> tuple[int, int]:
    """The number of clusters, and how often an image was loaded to find them."""
    sha256 = [hashlib.sha256(image).hexdigest() for image in images]
    index = pd.DataFrame({
        "sha256": sha256, "pixels_sha256": sha256, "problem": "", "phash": np.array(hashes, np.uint64),
        "flipped_phash": np.array(hashes, np.uint64)})
    loaded: list[int] = []

    def load(position: int) -> Pixels:
        loaded.append(position)
        return images[position]

    return find_clusters(index, load, SETTINGS).nunique(), len(loaded)


def test_two_thousand_flat_images_are_one_cluster_without_comparing_all_pairs() -> None:
    random = np.random.default_rng(0)
    flat = [np.full((40, 60, 3), 128, np.uint8) + random.integers(0, 2, (40, 60, 3), np.uint8) for _ in range(2000)]
    num_clusters, num_loads = cluster_counting_loads(flat, [perceptual_hash(image) for image in flat])
    assert num_clusters == 1
    assert num_loads < 5000


def test_different_images_with_one_hash_are_not_all_compared() -> None:
    num_clusters, num_loads = cluster_counting_loads([scene(seed) for seed in range(100)], [0] * 100)
    assert num_clusters == 100
    assert num_loads < 150


def test_a_chain_of_near_copies_is_not_divided() -> None:
    """Frames of a slow pan: each resembles the next, but not those far away."""
    wide = cv2.resize(np.random.default_rng(0).integers(30, 220, (9, 60, 3), np.uint8), (1600, 240),
                      interpolation=cv2.INTER_CUBIC)
    frames = {f"train/0/{left:04}.jpg": jpeg(np.ascontiguousarray(wide[:, left : left + 320]))
              for left in range(0, 640, 3)}
    index, load = build_index(frames)
    clusters = find_clusters(index, load, SETTINGS).tolist()
    thumbnails = [thumbnail(load(position)) for position in range(len(index))]
    pairs = [pair for ends in near_pairs(index["phash"].to_numpy(), SETTINGS.max_hash_distance)
             for pair in zip(*(end.tolist() for end in ends), strict=True)]
    near_copies = [(first, second) for first, second in pairs
                   if thumbnail_difference(thumbnails[first], thumbnails[second]) <= SETTINGS.max_pixel_difference]
    assert len(near_copies) > 200
    assert all(clusters[first] == clusters[second] for first, second in near_copies)
    assert len(set(clusters)) < len(frames) / 10
