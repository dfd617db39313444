"""Mutated tables, seeded: each is rejected with its name or a setting, or exactly its ids survive."""

import csv
import io
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate
from source_files import write_files

from carclf.config import Config
from carclf.dataset.detection.detect import detect
from carclf.dataset.detection.result import Layout, SampleSubmission
from carclf.dataset.fixes import apply_fixes, parse_fixes
from carclf.dataset.submission_file import check_submission, submission_table
from carclf.errors import ConfigError, DataError

IDS = ("1.jpg", "NA", "null", "1e5", "007", '"a,b"', "zürich.jpg", "=1+1", "-1", "nan")
TABLE_SEEDS = [f"Id,Category{end}{''.join(f'{name},{number % 3}{end}' for number, name in enumerate(IDS))}".encode(code)
               for end in ("\n", "\r\n") for code in ("utf-8", "utf-8-sig")]
SHA256 = "0123456789abcdef" * 4
FIX_SEEDS = [
    b"id,action,label\n1.jpg,relabel,2\nNA,drop,\n007,relabel,0\n",
    f"id,action,label,sha256\r\ntrain/1/1.jpg,drop,,\r\n2.jpg,relabel,1,{SHA256}\r\n".encode(),
]
INDEX = pd.DataFrame([
    {"id": name, "path": f"train/{label}/{name}", "label": str(label), "source": "train", "problem": "",
     "problem_kind": "", "sha256": SHA256[label:] + "0" * label} for label, name in enumerate(("1.jpg", "2.jpg", "NA"))
])


def change_cell(random: random.Random, data: bytes) -> bytes:
    """Replace a cell by an unusual value."""
    lines = data.split(b"\n")
    number = random.randrange(len(lines))
    cells = lines[number].split(b",")
    cells[random.randrange(len(cells))] = random.choice(
        (b"", b"NA", b"1.0", b"01", b"-1", b"9" * 30, b'"', b'"\r"', b"\0", b"\x1b[2J", b" 1.jpg ", b"\xff", b"a\tb",
         b"1.jpg", b"../x", b"a" * 200_000, "zu\u0308rich.jpg".encode(), "\u2028".encode()))
    lines[number] = b",".join(cells)
    return b"\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, truncate, repeat, splice([*TABLE_SEEDS, *FIX_SEEDS]), change_cell, change_cell, change_cell,
    lambda _, data: data.replace(b",", b";"), lambda _, data: data.decode("utf-8", "replace").encode("utf-16"),
    lambda _, data: data.replace(b"\n", b"\r"), lambda _, data: data,
)


def mutate(number: int, seeds: list[bytes]) -> bytes:
    chance = random.Random(number)
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 2))):
        data = chance.choice(MUTATIONS)(chance, data) or b"\0"
    return data


def readings(data: bytes) -> list[list[list[str]]]:
    """Return the rows with each separator; no rows if the text has the encoding of none of the seeds."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        return [list(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator)))
                for separator in ",;\t|"]
    except (UnicodeDecodeError, csv.Error):
        return []


def columns(data: bytes) -> list[list[str]]:
    """Return each column of each reading, with and without the first row; a row counts once."""
    return [list(column) for rows in readings(data) for part in (rows, rows[1:])
            for column in zip(*dict.fromkeys(map(tuple, part)), strict=False)]


def check_layout(layout: Layout, sample: bytes, train: bytes) -> None:
    """Check that exactly the ids and the labels of the files survive."""
    assert layout.submission is not None and list(layout.test_ids) in (columns(sample) or [list(layout.test_ids)])
    form = layout.submission
    rows = submission_table(SampleSubmission(layout.test_ids, form), form, layout.class_names,
                            np.eye(1, len(layout.class_names)).repeat(len(layout.test_ids), 0))
    check_submission(rows.to_csv(index=False), SampleSubmission(layout.test_ids, form), form)
    labels = sorted(layout.images.loc[layout.images["source"] == "train", "label"])
    texts = [sorted(filter(None, map(str.strip, column))) for column in columns(train)]
    assert labels in (texts or [labels])


def fuzz_tables(num: int, folder: Path) -> dict[str, int]:
    outcomes = {"read": 0, "rejected": 0}
    names = next(csv.reader([",".join(IDS)]))
    write_files(folder, [f"{part}/{name}" for part in ("train", "test") for name in names], {})
    for number in range(num):
        tables = {"train.csv": TABLE_SEEDS[0], "sample-submission.csv": TABLE_SEEDS[0]}
        name = "train.csv" if number % 2 else "sample-submission.csv"
        tables[name] = mutate(number, TABLE_SEEDS)
        for path, data in tables.items():
            (folder / path).write_bytes(data)
        try:
            layout = detect(folder, Config(), "Categorization Accuracy")
        except (DataError, ConfigError) as error:
            assert name in str(error) or re.search(r"\b(data|submit)\.[a-z_]+", str(error)), number
            outcomes["rejected"] += 1
            continue
        outcomes["read"] += 1
        check_layout(layout, tables["sample-submission.csv"], tables["train.csv"])
    return outcomes


def fuzz_fixes(num: int) -> dict[str, int]:
    outcomes = {"read": 0, "rejected": 0}
    for number in range(num):
        try:
            fixes = parse_fixes(mutate(number, FIX_SEEDS))
            result = apply_fixes(INDEX, fixes, {"0", "1", "2"})
        except DataError as error:
            assert "label_fixes.csv" in str(error), number
            outcomes["rejected"] += 1
            continue
        outcomes["read"] += 1
        assert len(result.changes) + len(result.unmatched) == len(fixes.entries), number
        assert set(result.index["label"]) <= {"0", "1", "2"}, number
    return outcomes


@mutation_counts(120)
def test_mutated_tables_are_read_as_text_or_rejected(num: int, tmp_path: Path) -> None:
    assert min(fuzz_tables(num, tmp_path).values()) > num / 20


@mutation_counts(120)
def test_mutated_label_fixes_are_applied_or_rejected(num: int) -> None:
    assert min(fuzz_fixes(num).values()) > num / 20
