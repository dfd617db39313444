"""Grading of submissions by each metric, and what the grader rejects."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, log_loss, roc_auc_score

from carclf.demo.competition import Competition
from carclf.demo.grading import grade

IDS = ("a", "b", "c", "d", "e", "f")
CLASSES = ("bus", "lorry", "van")
NAMES = dict(zip(IDS, ("van", "bus", "bus", "lorry", "van", "bus"), strict=True))
NUMBERS = dict(zip(IDS, ("0", "2", "4", "1", "2", "0"), strict=True))
BINARY = dict(zip(IDS, ("1", "0", "0", "1", "1", "0"), strict=True))


def competition(truth: dict[str, str], columns: tuple[str, ...], metric: str, kind: object) -> Competition:
    return Competition("c", Path("none.zip"), IDS, truth, metric, columns=columns, kind=kind)  # type: ignore[arg-type]


def csv(columns: tuple[str, ...], rows: dict[str, list[object]]) -> bytes:
    lines: list[list[object]] = [[*columns], *([name, *row] for name, row in rows.items())]
    return "\n".join(",".join(map(str, line)) for line in lines).encode()


PROBABILITIES = ("id", *CLASSES)
LOSS = competition(NAMES, PROBABILITIES, "log_loss", "probabilities")
AUC = competition(BINARY, ("id", "has_cactus"), "roc_auc", "positive")
KAPPA = competition(NUMBERS, ("id", "diagnosis"), "quadratic_weighted_kappa", "label")
MACRO = competition(NAMES, ("id", "species"), "macro_f1", "label")

chance = st.floats(0.001, 1)


@given(st.lists(st.tuples(chance, chance, chance), min_size=6, max_size=6), st.permutations(IDS))
def test_log_loss_is_that_of_the_rescaled_rows(rows: list[tuple[float, ...]], order: list[str]) -> None:
    score, error = grade(LOSS, csv(PROBABILITIES, {name: list(row) for name, row in zip(order, rows, strict=True)}))
    values = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    expected = log_loss([NAMES[name] for name in order], values, labels=list(CLASSES))
    assert error == ""
    assert float(score) == pytest.approx(expected, abs=2e-5)


@given(st.lists(st.integers(0, 20), min_size=6, max_size=6))
def test_roc_auc_uses_the_positive_class(units: list[int]) -> None:
    score, error = grade(AUC, csv(AUC.columns, {name: [unit / 20] for name, unit in zip(IDS, units, strict=True)}))
    expected = roc_auc_score([BINARY[name] == "1" for name in IDS], units)
    assert (error, float(score)) == ("", pytest.approx(expected, abs=2e-5))


@given(st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_kappa_is_weighted_by_the_numbers(labels: list[int]) -> None:
    score, error = grade(KAPPA, csv(KAPPA.columns, {name: [label] for name, label in zip(IDS, labels, strict=True)}))
    expected = cohen_kappa_score([int(NUMBERS[name]) for name in IDS], labels, labels=range(5), weights="quadratic")
    assert (error, float(score)) == ("", pytest.approx(expected, abs=2e-5))


@given(st.lists(st.sampled_from(CLASSES), min_size=6, max_size=6))
def test_macro_f1_compares_names(labels: list[str]) -> None:
    score, error = grade(MACRO, csv(MACRO.columns, {name: [label] for name, label in zip(IDS, labels, strict=True)}))
    expected = f1_score([NAMES[name] for name in IDS], labels, average="macro")
    assert (error, float(score)) == ("", pytest.approx(expected, abs=2e-5))


def test_a_positive_class_may_have_a_name() -> None:
    named = Competition("c", Path("none.zip"), ("a", "b"), {"a": "dog", "b": "cat"}, "log_loss",
                        columns=("id", "label"), kind="positive", positive_class="dog")
    assert grade(named, b"id,label\na,0.5\nb,0.5\n") == ("0.69314", "")
    assert grade(named, b"id,label\na,1\nb,0\n") == ("0.00000", "")


VALID = {name: [0.2, 0.3, 0.5] for name in IDS}


@pytest.mark.parametrize(("columns", "rows"), [
    (("id", "bus", "van", "lorry"), VALID),  # another order of the columns
    (("ID", *CLASSES), VALID),
    (("id", "bus", "lorry"), {name: row[:2] for name, row in VALID.items()}),
    (PROBABILITIES, VALID | {"g": [0.2, 0.3, 0.5]}),
    (PROBABILITIES, {name: row for name, row in VALID.items() if name != "a"}),
    *((PROBABILITIES, VALID | {"a": [text, 0.3, 0.5]}) for text in ("", "bus", "nan", "inf", "1e999", "0_1", "\u0665")),
])
def test_an_invalid_table_of_probabilities_has_no_score(
    columns: tuple[str, ...], rows: dict[str, list[object]]
) -> None:
    score, error = grade(LOSS, csv(columns, rows))
    assert score == ""
    assert error != ""


def test_the_ids_may_be_in_another_column() -> None:
    rows = [",".join(("species", "id")), *(f"{name},{image_id}" for image_id, name in NAMES.items())]
    assert grade(MACRO, "\n".join(rows).encode()) == ("1.00000", "")


def test_a_truth_of_one_class_has_no_roc_auc() -> None:
    same = competition(dict.fromkeys(IDS, "1"), ("id", "x"), "roc_auc", "positive")
    score, error = grade(same, csv(same.columns, {name: [0.5] for name in IDS}))
    assert score == ""
    assert "same class" in error


def test_an_empty_name_has_no_score() -> None:
    score, error = grade(MACRO, csv(MACRO.columns, {name: [""] for name in IDS}))
    assert score == ""
    assert "species" in error
