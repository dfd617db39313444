"""The names of the classes: from the settings, a table such as classes.csv, or a JSON map; else the labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from carclf.dataset.detection.given_subsets import is_subset_name
from carclf.dataset.detection.result import Detection, class_key, class_name, number_key
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.detection.tables import LABEL_SEPARATOR, Table
from carclf.dataset.findings import Finding, format_labels
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count
from carclf.natural_order import sort_naturally

_NUM_COLUMNS = 2
_CLASS_TABLE = re.compile(r"class.*|label.*|names.*")  # of wider tables
_CLASS_LIST = re.compile("(?<![a-z])(class|label|names|categor)")  # in JSON files
# Names, as class_key returns them, that are also written for a missing label.
_NO_LABEL = {
    "unlabeled", "unlabelled", "not-labeled", "not-labelled", "no-label", "nolabel", "without-label", "unknown",
    "undefined", "unspecified", "missing", "none", "null", "nan", "na", "n-a", "todo", "tbd", "?",
}
_SETTINGS = {"val": "val_folder", "test": "test_folder", "predict": "test_folder"}  # train may be a vehicle
# Of the code page in which names without an encoding are read.
_CP437_SYMBOLS = {symbol for symbol in bytes(range(128, 256)).decode("cp437") if not symbol.isalpha()}
NameMap = tuple[str, Mapping[str, str]]  # where they are, and the names by label


def parse_class_names(text: str) -> dict[str, str]:
    """Return the name of each label in ``0=Lada Priora,1=Ford Focus``. Raises ConfigError if it has another form."""
    pairs = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", text) if part]
    names = {class_name(label): class_name(name) for label, _, name in pairs}
    if not all([*names, *names.values()]) or len(set(names.values())) < len(pairs) or len(names) < len(pairs):
        raise ConfigError(f"data.class_names is {text!r}. Expected different labels and names, such as "
                          "0=Lada Priora,1=Ford Focus.")
    return names


def find_class_names(
    labels: Collection[str], setting: str, maps: Sequence[NameMap]
) -> tuple[dict[str, str], Detection]:
    """Return the class name of each label in the data, and the detection. ``setting`` is ``data.class_names``.

    The first of the maps counts that has a different name for each label, if the labels are whole numbers. Raises
    ConfigError if the setting has a label that the data do not have, or two labels get the same name; DataError if two
    labels differ only in spaces.
    """
    stripped = {label: class_name(label) for label in sort_naturally(labels)}
    num_labels = Counter(stripped.values())
    if equal := [label for label in stripped if num_labels[stripped[label]] > 1]:
        raise DataError(f"The class folders {' and '.join(map(repr, equal))} differ only in spaces at an end. Merge "
                        "them if they are the same class, or rename one.")
    if setting:
        names = _configured_names(labels, parse_class_names(setting))
        return names, _detection(names, "data.class_names")
    if all(re.fullmatch("[0-9]+", label) for label in labels):
        for path, mapping in maps:
            if (names := _names(labels, mapping)) and not all(map(str.isdecimal, names.values())):  # counts
                return names, _detection(names, f"{path} has a name for each label")
    return stripped, _detection(labels, "labels")


def _detection(classes: Collection[str], evidence: str) -> Detection:
    return Detection("classes", format_count(len(classes), "class", "classes"), evidence)


def _configured_names(labels: Collection[str], names: Mapping[str, str]) -> dict[str, str]:
    if unknown := sorted(names.keys() - set(labels)):
        raise ConfigError(f"data.class_names has the label {unknown[0]!r}, but the labels of the data are "
                          f"{format_labels(labels)}.")
    result = {label: names.get(label, label) for label in sort_naturally(labels)}
    if len(set(result.values())) < len(result):
        raise ConfigError("data.class_names has a name that is another class's label. Name that class as well.")
    return result


def _names(labels: Collection[str], mapping: Mapping[str, str]) -> dict[str, str]:
    names = {label: class_name(mapping.get(label, "")) for label in sort_naturally(labels)}
    return names if all(names.values()) and len(set(names.values())) == len(names) else {}


def check_names(names: Collection[str]) -> list[Finding]:
    """Return the classes that may be the same one, no label, a subset, garbled, or several labels of one image."""
    return [*_find_equal(names), *_find_doubtful(names)]


def _find_equal(names: Collection[str]) -> Iterator[Finding]:
    names_by_key = defaultdict(list)
    for name in sort_naturally(names):
        names_by_key[number_key(name)].append(name)
    for key, same in names_by_key.items():
        if len(same) > 1 and key.isdecimal():
            yield Finding("ambiguous_class", same[0], (
                f"The classes {format_labels(same)} are the same number. Merge them if they are the same class, or "
                "name them with data.class_names."))
        elif len(same) > 1:
            yield Finding("similar_classes", same[0], (
                f"The classes {format_labels(same)} differ only in upper and lower case or punctuation. Merge them if "
                "they are the same class."))


def _find_doubtful(names: Collection[str]) -> Iterator[Finding]:
    for name in sort_naturally(names):
        is_negative = name == "-1" and not any(other.startswith("-") for other in names if other != name)
        is_placeholder = class_key(name) in _NO_LABEL or is_negative
        if is_placeholder:
            yield Finding("placeholder_class", name, (
                f"'{name}' is used as a class, but may mean that there is no label. If so, remove its images, or "
                "move them out of the training images."))
        may_be_subset = is_subset_name(name) or role_of(re.split("[^A-Za-z]", name.strip())[0])  # no pregnancy_test
        if may_be_subset and (setting := _SETTINGS.get(role_of(name))) and not is_placeholder:
            yield Finding("subset_class", name, (
                f"'{name}' is used as a class, but may be a subset. If so, set data.{setting} to its folder."))
    garbled = [name for name in sort_naturally(names) if not _CP437_SYMBOLS.isdisjoint(name)]
    for kind, doubtful, problem in (
        ("garbled_class", garbled, "may have a wrong name, because archives may not record the encoding of names. If "
         "so, create the archive with UTF-8 names, or set data.class_names."),
        ("combined_classes", _combined(names), "may be several labels of one image, which is not supported. If so, "
         "keep one label per image."),
    ):
        if doubtful:
            yield Finding(kind, doubtful[0], (
                f"{format_count(len(doubtful), 'class', 'classes')}, such as {doubtful[0]!r}, {problem}"))


def _combined(names: Collection[str]) -> list[str]:
    """Return the classes that consist of other classes, and of words next to several of them: van new, car new."""
    words = {name: set(LABEL_SEPARATOR.split(name)) for name in sort_naturally(names)}
    candidates = [name for name in words if len(words[name]) > 1 and not words[name].isdisjoint(words)]
    partners: dict[str, set[str]] = defaultdict(set)
    for name in candidates:
        for word in words[name]:
            partners[word] |= words[name] & words.keys()
    return [name for name in candidates if all(word in words or len(partners[word]) > 1 for word in words[name])]


def read_maps(json_files: Mapping[str, object], tables: Sequence[Table]) -> list[NameMap]:
    """Return the content of the JSON files and tables that may map labels to names, or names to labels.

    A list in a JSON file called like classes.json has the names of the labels from 0 on. A table has two columns, of
    which the first line may be a row; or it is called like classes.csv, and exactly one column has a different text in
    each row.
    """
    maps: list[tuple[str, dict[str, str]]] = []
    for path, data in json_files.items():
        if isinstance(data, list) and _CLASS_LIST.search(path.rpartition("/")[2].lower()) and all(
                isinstance(name, str) for name in data):
            maps.append((path, {str(number): name for number, name in enumerate(data)}))
        if isinstance(data, dict) and all(isinstance(value, str | int) for value in data.values()):
            maps.append((path, {str(label): str(name) for label, name in data.items()}))
    for table in tables:
        columns = {str(column): table.rows[column].str.strip().tolist() for column in table.rows.columns}
        if len(columns) == _NUM_COLUMNS:
            maps.append((table.path, dict(zip(*([name, *values] for name, values in columns.items()), strict=True))))
        elif _CLASS_TABLE.match(table.path.rpartition("/")[2].lower()):
            texts = [name for name, values in columns.items() if _are_names(values)]
            maps += [(f"{texts[0]} of {table.path}", dict(zip(values, columns[texts[0]], strict=True)))
                     for name, values in columns.items() if len(texts) == 1 and name != texts[0]]
    maps = [(path, names) for path, names in maps if len(set(names.values())) == len(names)]
    return [*maps, *((path, {name: label for label, name in names.items()}) for path, names in maps)]


def _are_names(values: Collection[str]) -> bool:
    return len(set(values)) == len(values) and not any(re.fullmatch(r"-?[0-9.]*", value) for value in values)
