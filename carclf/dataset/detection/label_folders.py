"""Labels from class folders, and from the prefixes of file names."""

import re
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from carclf.dataset.detection.files import image_stem
from carclf.dataset.detection.ids import first_of_each
from carclf.dataset.detection.label_tables import TableLabels
from carclf.dataset.detection.result import class_key, number_key
from carclf.dataset.detection.subsets import is_part, role_of
from carclf.dataset.findings import Finding, format_labels
from carclf.dataset.layout import match_ids
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, format_list

MIN_CLASS_FRACTION = 0.9  # of the training images that are directly in a class folder
MAX_PREFIXES = 200
MAX_PARTS = 20
MAX_FIELDS = 3  # of names, next to the prefix; longer names are descriptions
MIN_COMMON = 0.5  # fraction of the class folders that are classes of the table
_PREFIXES = (r"^(.+?)(?:[._-]+[0-9]+)+\.[^.]+$", r"^([^._-]+)[._-].*[._-]")  # of file names: before numbers, first word
_NUMBERED_CLASS = re.compile("class|label|categor|grade|stage|level|type|degree|score", re.IGNORECASE)
_CAMERA = re.compile("(im|img|image|dscn?|dscf|p|pic|photo|pxl|gopr|mvi|vid|scan|screenshot|frame|file)s?",
                     re.IGNORECASE)  # prefixes of names that cameras and programs write
# Words in the names of folders whose images are those of another folder.
_COPIES = {"original", "originals", "orig", "raw", "full", "thumb", "thumbs", "thumbnail", "thumbnails", "small",
           "large", "resized", "crop", "crops", "cropped", "scaled", "aug", "augmented", "gray", "grayscale", "rgb",
           "color", "copy", "copies", "cam", "camera", "jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "res", "hd",
           "sd", "processed", "preprocessed", "unprocessed", "enhanced", "normalized", "resize", "augmentation"}
_SIZE = re.compile("[0-9](px|x[0-9])|^(64|96|128|224|256|299|384|512|1024)$")  # of images, in names of such folders
_DATE = re.compile("(19|20)[0-9]{2}([-_. ]?[0-9]{2}){1,2}")
_OTHER_TABLES = (".mat", ".xlsx", ".xls", ".ods", ".parquet", ".feather")


def training_images(images: pd.DataFrame) -> pd.DataFrame:
    """Return the images of the training folders, or those without a subset if there are none."""
    is_train = images["role"] == "train"
    return images[is_train if is_train.any() else images["role"] == ""]


def read_class_folders(images: pd.DataFrame, level: int = 0) -> "pd.Series[str] | None":
    """Return the class folder of each image, "" for training images outside of one; None if there are none.

    Class folders are at least two folders directly below the folder of the training images, or at a ``level`` of
    folders there, from 1. Validation and test images have labels if one of their folders is a class.

    Raises:
        ConfigError: There are fewer than two folders at the level.
        DataError: There is a class that the training images lack.
    """
    subfolders = training_images(images)["subfolder"]
    folders, names = _below_common_folder(subfolders), images["subfolder"]
    if level:
        num_common = len(subfolders) and subfolders.iloc[0].count("/") - folders.iloc[0].count("/")
        names = names.map(lambda path: "".join(path.split("/")[num_common + level - 1:][:1]))
        folders = names[folders.index]
    is_in_class = (folders != "") & ~folders.str.contains("/")
    classes = set(folders[is_in_class])
    if blank := sorted(name for name in classes if not name.strip()):
        raise DataError(f"A class folder has a blank name, {blank[0]!r}. Rename the folder.")
    if level and len(classes) <= 1:
        raise ConfigError(f"data.class_level is {level}, but there are not two folders with training images at this "
                          f"level (first image: {images.loc[folders.index[0], 'path']}). Set another level.")
    if len(classes) <= 1 or (is_in_class.mean() < MIN_CLASS_FRACTION and not level):
        return None
    by_key = {class_key(name): name for name in sorted(classes, reverse=True)} | {name: name for name in classes}
    return _with_other_subsets(images, folders.where(is_in_class, ""), names, by_key)


def are_parts(names: Collection[str]) -> bool:
    """Return True if the names of folders may be those of parts of the images, such as part_1 and part_2, or dates."""
    names = {name for name in names if name}
    if len(names) > 1 and all(map(_DATE.fullmatch, names)):
        return True
    stems = {re.sub("[0-9]+", "", name) for name in names}
    return len(stems) == 1 and any(map(str.isalpha, min(stems))) and len(names) <= MAX_PARTS


def check_prefixes(images: pd.DataFrame, folders: "pd.Series[str]") -> list[Finding]:
    """Return a finding if all class folders have the same prefixes of names, which may be the classes.

    Prefixes with digits are cameras or patients. Raises ConfigError if the folders may be parts, such as part_1, or
    have the same names of files and are called like copies.
    """
    images = training_images(images)
    names = set(folders[images.index]) - {""}
    first = images[folders[images.index] == min(names)]
    may_have = read_prefixes(first) is not None and not (_NUMBERED_CLASS.search(min(names)) and are_parts(names))
    prefixes = read_prefixes(images) if may_have else None
    if prefixes is None or prefixes.groupby(folders).agg(frozenset).nunique() > 1:
        return []
    stems = images["path"].str.split("/").str[-1].map(image_stem)
    are_copies = stems.groupby(folders).agg(frozenset).nunique() == 1 and any(map(_is_called_like_copies, names))
    are_words = not prefixes.str.contains("[0-9]").any()
    text = (f"The classes may be folders, such as {min(names)}, or prefixes of names, such as {prefixes.min()}, which "
            "all of these folders have.")
    if are_parts(names) or (are_copies and are_words):
        copies = f", or data.train_folder to {min(names)} if the others have copies of its images" * are_copies
        raise ConfigError(f"{text} Set data.label_source to folders or file_names{copies}.")
    return [Finding("common_prefixes", min(names), (
        f"{text} If the prefixes are the classes, set data.label_source to file_names."))] * are_words


def _is_called_like_copies(folder: str) -> bool:
    """Return True for a folder such as thumbnails or images_224px."""
    name = folder.lower()
    return bool(_SIZE.search(name) or not _COPIES.isdisjoint(re.findall("[a-z]+", name)))


def match_classes(names: set[str], classes: set[str]) -> dict[str, str]:
    """Return the table's class of each folder; an empty dict if less than half of the folders have one.

    Names are compared as they are, in the archive's code page, without punctuation, and as numbers.
    """
    for key in (class_key, number_key):
        by_key = {key(name): name for name in sorted(classes, reverse=True)}
        matches = {name: by_key[key(name)] for name in names if key(name) in by_key}
        matches |= {folder: name for name, folder in match_ids(sorted(classes), names).items()}
        if names and len(set(matches.values())) >= MIN_COMMON * len(names):
            return matches
    return {}


def labels_of_other_subsets(
    folders: "pd.Series[str]", labels: "pd.Series[str]", tables: Sequence[TableLabels]
) -> "pd.Series[str]":
    """Return the labels of images without a class folder, in tables such as Test.csv with the folders' classes.

    Raises DataError if some of a table's classes are classes of the folders, but others are not.
    """
    label_by_key = {number_key(folder): label for folder, label in zip(folders, labels, strict=True) if folder}
    result = [labels[:0]]
    for table in tables:
        values = table.values[~table.values.index.isin(folders.index)]
        matches = {value: label_by_key.get(number_key(value), "") for value in set(values)}
        if table.role not in ("val", "test") or not any(matches.values()):
            continue
        if unknown := [value for value, label in matches.items() if not label]:
            num_unknown = format_count(len(unknown), "class", "classes")
            raise DataError(f"{table.joined.path} has {num_unknown} that the class folders lack: "
                            f"{format_labels(unknown)}. Correct its classes, or set data.label_source to folders.")
        result.append(values.map(matches))
    return first_of_each(pd.concat(result))


def _below_common_folder(folders: "pd.Series[str]") -> "pd.Series[str]":
    """Return the folders without the first ones that all of them have: archive/train/0 and archive/train/1."""
    while len(folders) and folders.str.contains("/").all() and folders.str.partition("/")[0].nunique() == 1:
        folders = folders.str.partition("/")[2]
    return folders


def require_single_folder(images: pd.DataFrame, prefixes: "pd.Series[str]") -> None:
    """Raise ConfigError if the training images are in several folders, which may be the classes instead of prefixes.

    Folders that differ in a number, such as part_1 and part_2, are parts.
    """
    train = training_images(images)
    folders = (train["root"] + "/" + train["subfolder"]).str.strip("/")
    if folders.nunique() > 1 and not are_parts(set(folders)):
        example = f"{folders.min() or 'the top one'} and {folders.max()}"
        levels = _describe_levels(train)
        setting = f"{levels}, or data.train_folder to the folder with the class folders" if levels else (
            "data.label_source to folders")
        raise ConfigError(f"The classes may be folders, such as {example}, or prefixes of names, such as "
                          f"{prefixes.min()}. For prefixes set data.label_source to file_names, for folders {setting}.")


def _describe_levels(train: pd.DataFrame) -> str:
    """Return the values of data.class_level with the classes of each; "" if images are not in folders of a folder."""
    parts = _below_common_folder(train["subfolder"]).str.split("/", expand=True)
    names = {level: set(parts[level - 1].dropna()) - {""} for level in range(1, len(parts.columns) + 1)}
    texts = [f"{level} ({format_labels(folders)})" for level, folders in names.items() if len(folders) > 1]
    return f"data.class_level to {' or '.join(texts)}" if texts and len(names) > 1 else ""


def read_prefixes(images: pd.DataFrame, *, is_chosen: bool = False) -> "pd.Series[str] | None":
    """Return the prefix of each image's name; None if the prefixes are no classes.

    If all training images are called like pit_bull_1.jpg or pit_bull_2020_001.jpg, it is the text before the numbers,
    else the text up to the first dot, underscore or hyphen. There must be 2 to 200 prefixes, each of at least two
    training images, and not all as cameras write them, unless the user chose prefixes. Validation and test images have
    labels if one of their prefixes is a class.
    """
    names = images["path"].str.split("/").str[-1].str.normalize("NFC")
    for pattern in _PREFIXES:
        prefixes = names.str.extract(pattern, expand=False)
        train = prefixes[training_images(images).index]
        sizes = train.value_counts()
        is_valid = train.notna().all() and 1 < len(sizes) <= MAX_PREFIXES and sizes.min() > 1
        is_class = is_valid and not all(
            role_of(name) or (_CAMERA.fullmatch(name) and not is_chosen) for name in sizes.index)
        if is_class and not _are_combined(sizes.index):
            return _with_other_subsets(images, train, prefixes.fillna(""), {name: name for name in sizes.index})
    return None


def require_single_field(images: pd.DataFrame, prefixes: "pd.Series[str]") -> None:
    """Raise ConfigError if another part of the names may be the class: OK and NG of cam1_OK_1.jpg and cam2_NG_2.jpg.

    Most prefixes must have most of its values. Numbers, as in cam1 and P01, count only if the prefixes are some, too.
    """
    train = prefixes[training_images(images).index]
    stems = images.loc[train.index, "path"].str.split("/").str[-1].str.normalize("NFC").map(image_stem)
    rests = pd.Series([stem[len(prefix):] for stem, prefix in zip(stems, train, strict=True)], train.index, dtype="str")
    fields = rests.str.strip("._-").str.split("[._-]+", expand=True, regex=True)
    fields = fields.loc[:, fields.notna().all() & (fields.nunique() > 1)]
    for column in fields if len(fields.columns) <= MAX_FIELDS else []:
        are_numbers = train.str.isdecimal().all() and fields[column].str.fullmatch("[0-9]").all()
        values = fields[column] if are_numbers else fields[column].str.replace("[0-9]+", "", regex=True)
        if _are_crossed(train, values) and not all(map(_is_no_class, values.unique())):
            raise ConfigError(
                f"The classes may be the first part of the names, such as {format_labels(set(train))}, or another one, "
                f"such as {format_labels(set(values))}. For the first part, set data.label_source to file_names. For "
                "another one, add a table with a column of file names and one of classes, and set data.label_table.")


def _is_no_class(field: str) -> bool:
    """Return True for a letter such as a in 1a, a word that cameras write, and a subset."""
    return bool(re.fullmatch("[a-z]", field) or _CAMERA.fullmatch(field) or role_of(field))


def _are_crossed(first: "pd.Series[str]", second: "pd.Series[str]") -> bool:
    """Return True if most pairs of the values occur, twice on average: the second ones do not depend on the first."""
    num_pairs = len(pd.DataFrame({"first": first, "second": second}).drop_duplicates())
    sizes = first.nunique(), second.nunique()
    is_repeated = bool((second != "").all()) and 1 < sizes[1] <= MAX_PARTS and 2 * num_pairs <= len(first)
    return is_repeated and num_pairs > max(*sizes, sizes[0] * sizes[1] / 2)


def _are_combined(prefixes: Collection[str]) -> bool:
    """Return True if prefixes are a class and something else: with numbers, or each first word with the same others."""
    words = [re.split("[._-]", prefix, maxsplit=1) for prefix in prefixes]
    firsts, rests = {word[0] for word in words}, {word[1] for word in words if len(word) > 1}
    has_numbers = any(re.search("[0-9]", rest) for rest in rests)
    return has_numbers or (min(len(firsts), len(rests)) > 1 and len(words) == len(firsts) * len(rests))


def _with_other_subsets(
    images: pd.DataFrame, train: "pd.Series[str]", names: "pd.Series[str]", classes: Mapping[str, str]
) -> "pd.Series[str]":
    """Return the labels of the training images and of the other subsets that have classes."""
    labels = [train]
    for root, rows in images[images["role"].isin(["val", "test", "predict"])].groupby("root"):
        matches = names[rows.index].map(lambda name: classes.get(name, classes.get(class_key(name))))
        unknown = sorted(set(names[rows.index][matches.isna()]) - {""})
        if unknown and matches.notna().any():
            num_unknown = format_count(len(unknown), "class", "classes")
            raise DataError(f"{root} has {num_unknown} that the training images lack: {format_labels(unknown)}. Add "
                            f"training images of each, or remove its images from {root}.")
        labels.append(matches.dropna())
    return pd.concat(labels)


def require_single_root(images: pd.DataFrame) -> None:
    """Raise ConfigError if class folders are in several folders of training images, such as two sizes of them.

    Folders that differ in a number, without a common class, such as train.X1 and train.X2 of ImageNet-100 or those of
    part1/train and part2/train, are parts; those of task1/train and task2/train are not.
    """
    folders = training_images(images)[["root", "subfolder"]].drop_duplicates()
    roots = sorted(folders["root"].unique())
    parents = {root.rpartition("/")[0] for root in roots}
    is_single = are_parts(roots) and (len(parents) == 1 or all(map(is_part, parents)))
    if len(roots) > 1 and (folders["subfolder"].duplicated().any() or not is_single):
        raise ConfigError(f"Several folders have training images in class folders: {', '.join(roots)}. Set "
                          "data.train_folder to one of them.")


def describe_unread_table(others: Collection[str], lists: Collection[str] = ()) -> str:
    """Return the message about a file that may be a table of labels, but is not supported; "" if there is none.

    ``lists`` are other files that name images, and may have labels, too.
    """
    unread = [*lists, *(path for path in others if path.lower().endswith(_OTHER_TABLES))]
    return (f"The labels may be in {unread[0]}, a file of a form that is not supported. Convert it to a CSV table with "
            "a column of file names and one of classes, and set data.label_table to it.") if unread else ""


def describe_subset(images: pd.DataFrame) -> str:
    """Return the setting for images in a folder that is called like a subset, with a space before; "" for others."""
    folders = set(images["subfolder"].str.partition("/")[0])
    role = role_of(min(folders))
    path = f"{images['root'].iloc[0]}/{min(folders)}".strip("/")
    is_subset = len(folders) == 1 and role not in ("", "train")
    setting = "val_folder" if role == "val" else "test_folder"
    return f" If {path} is a subset, set data.{setting} to {path}." if is_subset else ""


def describe_no_labels(images: pd.DataFrame, others: Collection[str], lists: Collection[str], reasons: str) -> str:
    """Return the message for images without labels, with the folders and label files that exist.

    ``lists`` are files that name images. ``reasons`` are sentences about the tables without labels, with a space
    before each.
    """
    train = training_images(images)
    if unread := describe_unread_table(others, [] if reasons else lists):
        return unread
    is_deeper = train["subfolder"].str.contains("/")
    if is_deeper.any():
        subset = describe_subset(train[is_deeper])
        return (f"There are no labels: images must be directly in class folders, but {is_deeper.sum()} of {len(train)} "
                f"are deeper (first: {train.loc[is_deeper, 'path'].iloc[0]}).{reasons}"
                f"{subset} {'Otherwise, set' if subset else 'Set'} "
                f"{_describe_levels(train) or 'data.class_level to their level'}, or data.train_folder to the folder "
                "with the class folders, or add a table with the labels and set data.label_table.")
    num_folders = train[train["subfolder"] != ""].groupby("root")["subfolder"].nunique()
    if len(roots := sorted(set(train["root"]))) > 1 and (num_folders > 1).any():
        return (f"There are no labels: several folders have training images, {format_list(roots)}, and not all are in "
                f"class folders.{reasons} Set data.train_folder to the one with the class folders.")
    if len(folders := set(train["folder"])) == 1:
        folder = folders.pop() or "the top folder"
        return (f"There are no labels: all training images ({len(train)}) are in one folder ({folder}).{reasons} Add a "
                "folder of images for each class, or a table with the labels, and set data.label_table.")
    return (f"There are no labels that data.label_source allows: class folders, a table with an id and at least two "
            f"classes for the training images ({len(train)}), or common prefixes of their names.{reasons} Add a table "
            "and set data.label_table, or move the images into class folders.")
