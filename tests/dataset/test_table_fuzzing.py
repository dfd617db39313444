"""Mutated tables, seeded: each is rejected with its name, or read so that the ids survive being written again."""

import csv
import io
import random
from pathlib import Path

import pandas as pd
from carclf.dataset.competition_tables import read_sample_submission, read_train_csv
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate

from carclf.dataset.fixes import apply_fixes, parse_fixes
from carclf.errors import DataError
from carclf.stages.submit import check_submission

IDS = ("1.jpg", "NA", "null", "1e5", "007", '"a,b"', "zürich.jpg", "=1+1", "-1", "nan")
TABLE_SEEDS = [f"Id,Category{end}{''.join(f'{name},{number % 3}{end}' for number, name in enumerate(IDS))}".encode(code)
               for end in ("\n", "\r\n") for code in ("utf-8", "utf-8-sig")]
SHA256 = "0123456789abcdef" * 4
FIX_SEEDS = [
    b"id,action,label\n1.jpg,relabel,2\nNA,drop,\n007,relabel,0\n",
    f"id,action,label,sha256\r\ntrain/1/1.jpg,drop,,\r\n2.jpg,relabel,1,{SHA256}\r\n".encode(),
]
INDEX = pd.DataFrame([
    {"id": name, "path": f"train/{label}/{name}", "label": label, "source": "train", "problem": "", "problem_kind": "",
     "sha256": SHA256[label:] + "0" * label} for label, name in enumerate(("1.jpg", "2.jpg", "NA"))
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


def fuzz_tables(num: int, folder: Path) -> dict[str, int]:
    outcomes = {"read": 0, "rejected": 0}
    sample_path, train_path = folder / "sample-submission.csv", folder / "train.csv"
    for number in range(num):
        data = mutate(number, TABLE_SEEDS)
        for path in (sample_path, train_path):
            path.write_bytes(data)
        try:
            sample = read_sample_submission(folder)
        except DataError as error:
            assert "sample-submission.csv" in str(error), number
            outcomes["rejected"] += 1
            continue
        outcomes["read"] += 1
        ids = sample["Id"].tolist()
        rows = list(filter(None, csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))))
        assert ids == [row[0] for row in rows[1:]], number
        sample.to_csv(sample_path, index=False)
        assert read_sample_submission(folder)["Id"].tolist() == ids, number
        submission = pd.DataFrame({"Id": ids, "Category": "1"}).to_csv(index=False)
        check_submission(submission, sample_path.read_text(encoding="utf-8"), ["1"])
        try:
            train = read_train_csv(folder)
        except DataError as error:
            assert "train.csv" in str(error), number
        else:
            assert train is not None and train["Id"].tolist() == ids, number
            assert [str(label) for label in train["Category"]] == [str(int(label)) for label in sample["Category"]]
    return outcomes


def fuzz_fixes(num: int) -> dict[str, int]:
    outcomes = {"read": 0, "rejected": 0}
    for number in range(num):
        try:
            fixes = parse_fixes(mutate(number, FIX_SEEDS))
            result = apply_fixes(INDEX, fixes, {0, 1, 2})
        except DataError as error:
            assert "label_fixes.csv" in str(error), number
            outcomes["rejected"] += 1
            continue
        outcomes["read"] += 1
        assert len(result.changes) + len(result.unmatched) == len(fixes.entries), number
        assert set(result.index["label"]) <= {0, 1, 2}, number
    return outcomes


@mutation_counts(600)
def test_mutated_tables_are_read_as_text_or_rejected(num: int, tmp_path: Path) -> None:
    assert min(fuzz_tables(num, tmp_path).values()) > num / 20


@mutation_counts(600)
def test_mutated_label_fixes_are_applied_or_rejected(num: int) -> None:
    assert min(fuzz_fixes(num).values()) > num / 20
