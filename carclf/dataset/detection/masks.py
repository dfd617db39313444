"""Segmentation masks, which are files like images: masks/1.png of images/1.jpg, and 1_mask.png of 1.jpg."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

MIN_FRACTION = 0.9  # of a folder's images that have the name of an image
_MASK_WORDS = {"mask", "masks", "trimap", "trimaps", "segmentation", "segmentations", "seg", "gt", "groundtruth",
               "truth", "label", "labels", "annotation", "annotations"}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "photo", "photos", "original", "originals", "input", "inputs"}
_MASK_STEM = re.compile(
    r"^(.+)[ _-](?:masks?|seg|segmentation|trimap|gt|groundtruth|annotation|anno)(?:[ _-]?[0-9]+)?$", re.IGNORECASE)
_LOSSLESS = (".png", ".gif", ".bmp", ".tif", ".tiff")  # another format would change the classes of pixels


def find_masks(images: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Return the names of the masks by folder, given the names of all image files by folder.

    A folder called like masks has masks if most of its files are called like those of folders that are called like
    images, with the same folders in them: segmentations/cat of images/cat. Next to other folders, it may be a class,
    unless several classes have such a pair: shrimp/shrimp GT of shrimp/shrimp. A file such as 1_mask.png is the mask of
    1.jpg in the same folder.
    """
    stems: dict[str, set[str]] = defaultdict(set)
    for folder, names in images.items():
        kind, below = _kind(folder)
        if kind == "image":
            stems[below].update(map(_stem, names))
    siblings = _folders_of_siblings(images)
    masks = {}
    for folder, names in images.items():
        kind, below = _kind(folder)
        known = set(map(_stem, images[siblings[folder]])) if folder in siblings else stems[below]
        if kind == "mask" and _num_known(names, known) >= MIN_FRACTION * len(names):
            masks[folder] = set(names)
        elif pairs := _masks_next_to_images(names):
            masks[folder] = pairs
    return masks


def _num_known(names: Collection[str], stems: Collection[str]) -> int:
    return sum(_stem(name) in stems or _stem_of_image(name) in stems for name in names)


def _masks_next_to_images(names: Collection[str]) -> set[str]:
    stems = set(map(_stem, names))
    return {name for name in names if name.lower().endswith(_LOSSLESS) and _stem_of_image(name) in stems}


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _stem_of_image(name: str) -> str:
    """Return the stem of the image that a mask's name contains; "" if it contains none."""
    match = _MASK_STEM.fullmatch(_stem(name))
    return match[1] if match else ""


def _kind(folder: str) -> tuple[str, str]:
    """Return mask or image, by the last folder in the path that is called like one, and the path below it."""
    parts = folder.lower().split("/")
    for depth in range(len(parts), 0, -1):
        words = set(re.findall("[a-z]+", parts[depth - 1]))
        if kind := "mask" if words & _MASK_WORDS else "image" if words & _IMAGE_WORDS else "":
            return kind, "/".join(parts[depth:])
    return "", ""


def _folders_of_siblings(folders: Collection[str]) -> dict[str, str]:
    """Return the folder of the images of each folder called like it, such as shrimp of shrimp GT.

    A single pair may be two classes: face and face_mask.
    """
    pairs = {folder: image for folder in folders if (image := _stem_of_image(folder)) in folders}
    return pairs if len({folder.rpartition("/")[0] for folder in pairs}) > 1 else {}
