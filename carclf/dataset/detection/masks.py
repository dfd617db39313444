"""Segmentation masks, which are files like images: masks/1.png of images/1.jpg, and 1_mask.png or 1.png of 1.jpg."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

MIN_FRACTION = 0.9  # of a folder's images that have the name of an image
MIN_PAIRS = 0.5  # of the images in a folder that have a copy in another format, or a file called 1_label.png
_MASK_WORDS = {"mask", "masks", "trimap", "trimaps", "segmentation", "segmentations", "seg", "gt", "groundtruth",
               "truth", "label", "labels", "annotation", "annotations"}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "photo", "photos", "original", "originals", "input", "inputs"}
_SURE_NAMES = {"masks", "trimaps", "segmentation", "segmentations", "groundtruth"}  # of folders that are no class
_MASK_STEM = re.compile(
    r"^(.+)[ _-](?:masks?|seg|segmentation|trimap|gt|groundtruth|annotation|anno|(labels?))(?:[ _-]?[0-9]+)?$",
    re.IGNORECASE)
_LOSSLESS = (".png", ".gif", ".bmp", ".tif", ".tiff")  # another format would change the classes of pixels
_FORMATS = ((".jpg", ".jpeg", ".jfif", ".webp"), (".tif", ".tiff"), (".png", ".bmp", ".gif"))  # of photos first


def find_masks(images: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Return the names of the masks by folder, given the names of all image files by folder.

    A folder called like masks has masks if most of its files are called like those of folders that are called like
    images, with the same folders in them: segmentations/cat of images/cat. Next to other folders, it may be a class,
    unless several classes have such a pair: shrimp/shrimp GT of shrimp/shrimp. In scans/1.png and masks/1_mask.png, the
    names or the only other folder are the evidence. A file such as 1_mask.png is the mask of 1.jpg in the same folder,
    and the files of one format are masks or copies if all are called like photos.
    """
    stems: dict[str, set[str]] = defaultdict(set)
    children: dict[str, set[str]] = defaultdict(set)
    for folder, names in images.items():
        kind, parts, depth = _kind(folder)
        if kind == "image":
            stems["/".join(parts[depth:]).lower()].update(map(_stem, names))
        for level, part in enumerate(parts):
            children["/".join(parts[:level])].add(part)
    siblings = _folders_of_siblings(images)
    masks = {}
    for folder, names in images.items():
        kind, parts, depth = _kind(folder)
        below = "/".join(parts[depth:]).lower()
        known = set(map(_stem, images[siblings[folder]])) if folder in siblings else stems[below]
        may_be_masks = kind == "mask" and _may_be_masks(parts[depth - 1], names)
        if may_be_masks and (_are_known(names, known) or _are_masks_of_siblings(folder, images, children)):
            masks[folder] = set(names)
        elif pairs := _masks_next_to_images(names):
            masks[folder] = pairs
    return masks


def is_called_like_masks(column: str) -> bool:
    """Return True if a column of a table is called like masks."""
    return not _words(column).isdisjoint(_MASK_WORDS)


def _may_be_masks(folder: str, names: Collection[str]) -> bool:
    """Return False for photos in a folder such as FordGT, whose last word may be part of a name."""
    return bool(_words(folder) & _MASK_WORDS or _camel_words(folder) & _SURE_NAMES) or _are_lossless(names)


def _are_known(names: Collection[str], stems: Collection[str]) -> bool:
    num_known = sum(_stem(name) in stems or _stem_of_image(name) in stems for name in names)
    return num_known >= MIN_FRACTION * len(names)


def _are_masks_of_siblings(
    folder: str, images: Mapping[str, Collection[str]], children: Mapping[str, Collection[str]]
) -> bool:
    """Return True for files called like those of folders next to theirs, but _mask; or like those of the only one.

    A pair such as train and train_masks, or face and face_mask, may be two classes.
    """
    _, parts, depth = _kind(folder)
    words = _words(parts[depth - 1])
    siblings = [name for name in children["/".join(parts[: depth - 1])] if _kind(name)[0] != "mask"]
    names = images[folder]
    are_called_so = all(map(_stem_of_image, names))  # train_masks/1_mask.png of train/1.jpg
    others = [name for name in siblings if are_called_so or words.isdisjoint(_words(name))]
    paths = ["/".join([*parts[: depth - 1], name, *parts[depth:]]) for name in others]
    stems = {_stem(name) for path in paths for name in images.get(path, ())}
    is_sure = any(_stem_of_image(name) in stems for name in names) or (
        len(others) == 1 and re.sub("[^a-z]", "", parts[depth - 1].lower()) in _SURE_NAMES)
    return is_sure and _are_lossless(names) and _are_known(names, stems)


def _are_lossless(names: Collection[str]) -> bool:
    return all(name.lower().endswith(_LOSSLESS) for name in names)


def _masks_next_to_images(names: Collection[str]) -> set[str]:
    stems = set(map(_stem, names))
    pairs = {name for name in names if name.lower().endswith(_LOSSLESS) and _stem_of_image(name) in stems}
    called_label = {name for name in pairs if (match := _MASK_STEM.fullmatch(_stem(name))) and match[2]}
    if len(called_label) < MIN_PAIRS * (len(names) - len(pairs)):  # photos of labels
        pairs -= called_label
    return _find_twins(names) | pairs


def _find_twins(names: Collection[str]) -> set[str]:
    """Return the files of a format of which nearly all are called like one in a format of photos: 1.png of 1.jpg.

    A single one is no evidence, and nor are a few, next to many photos.
    """
    twins: set[str] = set()
    stems: set[str] = set()
    for suffixes in _FORMATS:
        same = [name for name in names if name.lower().endswith(suffixes)]
        known = {name for name in same if _stem(name) in stems}
        are_twins = 1 < len(known) >= MIN_FRACTION * len(same) and len(known) >= MIN_PAIRS * len(stems)
        twins |= known if are_twins else set()
        stems.update(map(_stem, same))
    return twins


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _stem_of_image(name: str) -> str:
    """Return the stem of the image that a mask's name contains; "" if it contains none."""
    match = _MASK_STEM.fullmatch(_stem(name))
    return match[1] if match else ""


def _kind(folder: str) -> tuple[str, list[str], int]:
    """Return mask or image, by the last folder in the path that is called like one, the path's parts, and its depth."""
    parts = folder.split("/")
    for depth in range(len(parts), 0, -1):
        words = _words(parts[depth - 1]) | _camel_words(parts[depth - 1])
        if kind := "mask" if words & _MASK_WORDS else "image" if words & _IMAGE_WORDS else "":
            return kind, parts, depth
    return "", parts, 0


def _words(name: str) -> set[str]:
    """Return the words between spaces, digits and punctuation, and the whole name."""
    return {*re.findall("[a-z]+", name.lower()), re.sub("[^a-z]", "", name.lower())}


def _camel_words(name: str) -> set[str]:
    """Return the words of a name such as trainMasks or JPEGImages, which may also be one of a brand: FordGT."""
    return set(map(str.lower, re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)))


def _folders_of_siblings(folders: Collection[str]) -> dict[str, str]:
    """Return the folder of the images of each folder called like it, such as shrimp of shrimp GT.

    A pair with the same names everywhere may be two classes, face and face_mask, and so may several in one folder.
    """
    pairs = {folder: image for folder in folders if (image := _stem_of_image(folder)) in folders}
    parents, names = ({folder.rpartition("/")[part] for folder in pairs} for part in (0, 2))
    return pairs if len(names) > 1 and len(parents) == len(pairs) else {}
