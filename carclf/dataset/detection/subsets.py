"""Which subset each image belongs to: folders such as train, valid and test, or those of the settings."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.files import Files, normalized
from carclf.dataset.detection.result import Detection
from carclf.errors import ConfigError
from carclf.formatting import format_count, format_list

NAMES_BY_ROLE = {
    "train": {"train", "training", "trainval"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "tests", "holdout", "eval", "evaluation"},
    "predict": {"pred", "predict", "prediction", "predictions", "preds", "predicted", "unlabeled"},
}
_PART = re.compile("(part|vol|volume|batch|chunk|shard)[ ._-]?[0-9]+$", re.IGNORECASE)  # of a path of a folder
_SUFFIX = re.compile("(set|data|list|files|images|imgs)$")  # of a name that is written together: trainset, testlist


def role_of(name: str) -> str:
    """Return the role of the first word that has one, else an empty string: test in test1, evalTest and test_train."""
    return next(iter(roles_of(name)), "")


def roles_of(name: str) -> list[str]:
    """Return train, val, test or predict for each word of the name that is one."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", re.sub("(?<![a-z])train[_-]val(?![a-z])", "trainval", name))
    return [role for word in words for role, names in NAMES_BY_ROLE.items()
            if word.lower() in names or _SUFFIX.sub("", word.lower()) in names]


def is_part(folder: str) -> bool:
    """Return True for the path of a part of the images, such as batch1."""
    return bool(_PART.search(folder))


def list_images(files: Files, config: Data) -> pd.DataFrame:
    """Return one row per image, sorted by path.

    - ``path``, ``folder``: in the source
    - ``role``: train, val, test, predict or ""; other if a setting excludes the image
    - ``root``: the folder that has this role, without doubled folders
    - ``subfolder``: below the root, without doubled folders, in composed form (NFC)
    """
    roles = find_roles(files, config)
    rows = [(f"{folder}/{name}" if folder else name, folder, *roles[folder])
            for folder, names in files.images.items() for name in names]
    images = pd.DataFrame(rows, columns=["path", "folder", "role", "root", "subfolder"], dtype="object")
    images["subfolder"] = images["subfolder"].str.normalize("NFC")
    return images.sort_values("path", ignore_index=True)


def find_roles(files: Files, config: Data) -> dict[str, tuple[str, str, str]]:
    """Return role, root and subfolder of each folder.

    Names of folders count where a level has train and another subset, or mostly subsets: a class may be called train.
    Raises ConfigError if a folder of the settings has no images.
    """
    children: dict[str, set[str]] = defaultdict(set)
    for path in files.collapsed.values():
        parts = path.split("/")
        for depth in range(len(parts)):
            children["/".join(parts[:depth])].add(parts[depth])
    levels = {level for level in children if _has_subsets(level, children)}
    roles = {folder: _role(path, levels) for folder, path in files.collapsed.items()}
    for role, setting in (("train", config.train_folder), ("val", config.val_folder), ("test", config.test_folder)):
        if setting:
            roles = _set_folder(files, roles, role, normalized(setting))
    return roles


def _role(path: str, levels: Collection[str]) -> tuple[str, str, str]:
    """Return role, root and subfolder of a path; ``levels`` are the folders whose folders are subsets."""
    parts = path.split("/")
    for depth, part in enumerate(parts):
        if "/".join(parts[:depth]) in levels:
            root = "/".join(parts[: depth + 1])
            return role_of(part), root, path[len(root) + 1:]
    return "", "", path


def _has_subsets(level: str, children: Mapping[str, set[str]]) -> bool:
    names = children[level]
    roles = {name: role for name in names if (role := role_of(name))}
    if set(roles.values()) == {"train"} and len({re.sub("[0-9]+", "", name) for name in names}) > 1:
        return False  # classes such as train_cats and train_dogs
    is_usual = ("train" in roles.values() and len(set(roles.values())) > 1) or 2 * len(roles) > len(names)
    return is_usual or ("train" not in roles.values() and any(
        _have_same_folders(f"{level}/{first}".strip("/"), f"{level}/{second}".strip("/"), children)
        for first in roles for second in names - roles.keys()))


def _have_same_folders(first: str, second: str, children: Mapping[str, set[str]]) -> bool:
    """Return True if most folders in one are also in the other, such as the classes of NCT-CRC and CRC-VAL."""
    both = children.get(first, set()) & children.get(second, set())
    return len(both) > 1 and 2 * len(both) > max(len(children[first]), len(children[second]))


def _set_folder(
    files: Files, roles: Mapping[str, tuple[str, str, str]], role: str, setting: str
) -> dict[str, tuple[str, str, str]]:
    """Give a role to the folders below the folder of a setting; others with this role are excluded."""
    result = {}
    for folder, old in roles.items():
        paths = [path for path in (normalized(folder), files.collapsed[folder]) if f"{path}/".startswith(f"{setting}/")]
        excluded = ("other", *old[1:]) if old[0] == role or (role == "train" and not old[0]) else old
        result[folder] = (role, setting, paths[-1][len(setting) + 1:]) if paths else excluded
    if not any(new[1] == setting and folder in files.images for folder, new in result.items()):
        parents = {folder.rpartition("/")[0] for folder in files.images} - {""}
        raise ConfigError(f"data.{role}_folder is {setting!r}, which has no images. Folders with images are "
                          f"{format_list(sorted(parents or files.images))}.")
    return result


def detect_subsets(images: pd.DataFrame) -> list[Detection]:
    """Return the detection of the subsets, if folders show them."""
    sizes = images[images["role"] != ""].groupby(["role", "root"]).size()
    if not len(sizes):
        return []
    roots = sizes.index.get_level_values("root")
    evidence = ", ".join(f"{root} has {format_count(num, 'image')}" for root, num in zip(roots, sizes, strict=True))
    return [Detection("subsets", ", ".join(sorted(set(sizes.index.get_level_values("role")))), evidence)]
