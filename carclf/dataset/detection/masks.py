"""Segmentation masks, which are files like images: masks/1.png of images/1.jpg, and 1_mask.png of 1.jpg."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Set
from pathlib import PurePosixPath

MIN_FRACTION = 0.9  # of a folder's images that have the name of an image
_MASK_WORDS = {"mask", "masks", "trimap", "trimaps", "segmentation", "segmentations", "seg", "gt", "groundtruth",
               "truth", "label", "labels", "annotation", "annotations"}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "photo", "photos", "original", "originals", "input", "inputs"}
_MASK_STEM = re.compile(
    r"^(.+)[ _-](?:masks?|seg|segmentation|trimap|gt|groundtruth|annotation|anno)(?:[ _-]?[0-9]+)?$", re.IGNORECASE)
_LOSSLESS = {".png", ".gif", ".bmp", ".tif", ".tiff"}  # another format would change the classes of pixels


def find_masks(images: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Return the names of the masks by folder, given the names of all image files by folder.

    A folder called like masks has masks if most of its files are called like those of folders that are called like
    images, with the same folders in them: segmentations/cat of images/cat. Next to other folders, it may be a class. A
    file such as 1_mask.png is the mask of 1.jpg in the same folder.
    """
    stems: dict[str, set[str]] = defaultdict(set)
    for folder, names in images.items():
        if _below(folder, _MASK_WORDS) is None and (below := _below(folder, _IMAGE_WORDS)) is not None:
            stems[below].update(map(_stem, names))
    masks = {}
    for folder, names in images.items():
        below = _below(folder, _MASK_WORDS)
        if below is not None and _num_known(names, stems[below]) >= MIN_FRACTION * len(names):
            masks[folder] = set(names)
        elif pairs := _masks_next_to_images(names):
            masks[folder] = pairs
    return masks


def _num_known(names: Collection[str], stems: Collection[str]) -> int:
    return sum(_stem(name) in stems or _stem_of_image(name) in stems for name in names)


def _masks_next_to_images(names: Collection[str]) -> set[str]:
    stems = set(map(_stem, names))
    return {name for name in names if PurePosixPath(name).suffix.lower() in _LOSSLESS and _stem_of_image(name) in stems}


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _stem_of_image(name: str) -> str:
    """Return the stem of the image that a mask's name contains; "" if it contains none."""
    match = _MASK_STEM.fullmatch(_stem(name))
    return match[1] if match else ""


def _below(folder: str, words: Set[str]) -> str | None:
    """Return the path below the last folder whose name has one of the words; None if there is none."""
    parts = folder.lower().split("/")
    depths = [depth for depth, part in enumerate(parts, 1) if not words.isdisjoint(re.findall("[a-z]+", part))]
    return "/".join(parts[depths[-1]:]) if depths else None
