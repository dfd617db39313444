"""The content of submission.csv in each of its forms, and files that are not sent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.detection.result import SampleSubmission, SubmissionFormat
from carclf.dataset.submission_file import DIGITS, check_submission, submission_table
from carclf.errors import ConfigError, DataError

CLASS_NAMES = ["2", "10", "Ü/x"]
IDS = ("b.jpg", "a, 1.jpg", "003")
PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25], [0.123456789, 0, 0.876543211]])
LABEL = SubmissionFormat("s.csv", "Id", ("Category",), "label", {"2": "0", "10": "1", "Ü/x": "ü", "only sample": "9"})
POSITIVE = SubmissionFormat("s.csv", "id", ("target",), "positive", {}, "10")
# The columns are in the order of the sample, and one class has no images.
COLUMNS = ("c_ü", "c_none", "c_2", "c_10")
PER_CLASS = SubmissionFormat("s.csv", "image", COLUMNS, "probabilities",
                             {"2": "c_2", "10": "c_10", "Ü/x": "c_ü", "none": "c_none"})
FORMS = [LABEL, POSITIVE, PER_CLASS]


def csv_text(form: SubmissionFormat, ids: tuple[str, ...] = IDS, probabilities: np.ndarray = PROBABILITIES) -> str:
    return submission_table(SampleSubmission(ids, form), form, CLASS_NAMES, probabilities).to_csv(index=False)


def test_a_label_is_the_value_of_the_most_probable_class() -> None:
    assert csv_text(LABEL) == 'Id,Category\nb.jpg,1\n"a, 1.jpg",0\n003,ü\n'


def test_a_positive_submission_has_the_probability_of_the_positive_class() -> None:
    assert csv_text(POSITIVE) == 'id,target\nb.jpg,0.70000000\n"a, 1.jpg",0.25000000\n003,0.00000000\n'


def test_probabilities_are_in_the_columns_of_their_classes_and_zero_for_others() -> None:
    assert csv_text(PER_CLASS).splitlines() == [
        "image,c_ü,c_none,c_2,c_10",
        "b.jpg,0.10000000,0.00000000,0.20000000,0.70000000",
        '"a, 1.jpg",0.25000000,0.00000000,0.50000000,0.25000000',
        "003,0.87654321,0.00000000,0.12345679,0.00000000",
    ]


@settings(max_examples=30)
@given(st.integers(2, 1500), st.floats(0.01, 30), st.integers(0, 99))
def test_probabilities_of_any_number_of_classes_pass_the_check(num_classes: int, scale: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (2, num_classes))
    values = np.exp(logits - logits.max(1, keepdims=True))
    names = [str(number) for number in range(num_classes)]
    form = SubmissionFormat("s.csv", "id", tuple(names), "probabilities", {name: name for name in names})
    sample = SampleSubmission(("a", "b"), form)
    table = submission_table(sample, form, names, values / values.sum(1, keepdims=True))
    assert table[names].map(len).eq(DIGITS + 2).all(axis=None)
    check_submission(table.to_csv(index=False), sample, form)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_the_ids_are_written_where_the_sample_has_them(form: SubmissionFormat) -> None:
    form = replace(form, id_position=1)
    text = csv_text(form)
    header = [form.columns[0], form.id_column, *form.columns[1:]]
    assert text.splitlines()[0] == ",".join(header)
    check_submission(text, SampleSubmission(IDS, form), form)
    with pytest.raises(DataError, match="has the columns"):
        check_submission(csv_text(replace(form, id_position=0)), SampleSubmission(IDS, form), form)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_a_written_file_passes_the_check(form: SubmissionFormat) -> None:
    check_submission(csv_text(form), SampleSubmission(IDS, form), form)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@pytest.mark.parametrize(("ids", "problem"), [
    (IDS[:2], "has 2 rows, not the sample's 3 ids"), (IDS[::-1], "has 3 rows, not the sample's 3 ids"),
    ((*IDS[:2], "b.jpg"), "has 1 repeated ids"), ((*IDS, "other"), "has 4 rows"),
])
def test_other_ids_than_those_of_the_sample_are_rejected(
    form: SubmissionFormat, ids: tuple[str, ...], problem: str
) -> None:
    text = csv_text(form, ids, np.resize(PROBABILITIES, (len(ids), 3)))
    with pytest.raises(DataError, match=rf"submission\.csv {problem}"):
        check_submission(text, SampleSubmission(IDS, form), form)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@pytest.mark.parametrize("header", ["", "Id,Other\n", "b.jpg,1\n"])
def test_another_header_than_that_of_the_sample_is_rejected(form: SubmissionFormat, header: str) -> None:
    _, _, rows = csv_text(form).partition("\n")
    with pytest.raises(DataError, match=r"submission\.csv has the columns"):
        check_submission(header + (rows if header else ""), SampleSubmission(IDS, form), form)


@pytest.mark.parametrize(("form", "row", "problem"), [
    (LABEL, "a", "has a row of 1 value"), (LABEL, "a,0,1", "has a row of 3 values"),
    (LABEL, "", "has a row of 0 values"),
    (LABEL, "a,2", r"has unknown classes \['2'\]"),  # a class name, but not its value
    (LABEL, "a,", "has unknown classes"),
    (POSITIVE, "a,high", "has a row without valid probabilities"),
    (POSITIVE, "a,", "has a row without valid probabilities"),
    (POSITIVE, "a,nan", "has a row without valid probabilities"),
    (POSITIVE, "a,1.01", "has a row without valid probabilities"),
    (POSITIVE, "a,-0.01", "has a row without valid probabilities"),
    (PER_CLASS, "a,0.1,0.2,0.3", "has a row of 4 values"),
    (PER_CLASS, "a,0.1,0.2,0.3,x", "has a row without valid probabilities"),
    (PER_CLASS, "a,0.1,0.2,0.3,inf", "has a row without valid probabilities"),
    (PER_CLASS, "a,-0.1,0.5,0.3,0.3", "has a row without valid probabilities"),
    (PER_CLASS, "a,0.1,0.2,0.3,0.41", "has a row without valid probabilities"),
])
def test_a_row_without_a_valid_value_is_rejected(form: SubmissionFormat, row: str, problem: str) -> None:
    text = f"{','.join((form.id_column, *form.columns))}\n{row}\n"
    with pytest.raises(DataError, match=rf"submission\.csv {problem}"):
        check_submission(text, SampleSubmission(("a",), form), form)


def test_another_positive_class_changes_the_values_zero_and_one() -> None:
    form = SubmissionFormat("s.csv", "id", ("target",), "label", {"cat": "0", "dog": "1"}, "dog")
    assert form.with_positive_class("") is form
    assert form.with_positive_class("cat").values == {"cat": "1", "dog": "0"}
    with pytest.raises(ConfigError, match=r"submit\.positive_class"):
        form.with_positive_class("bird")


def test_the_positive_class_may_be_a_label_or_in_other_letters() -> None:
    form = SubmissionFormat("s.csv", "id", ("target",), "positive", {"Cat": "0", "Dog": "1"}, "Dog")
    assert [form.with_positive_class(name).positive_class for name in ("1", "dog", "0", "cat")] == [
        "Dog", "Dog", "Cat", "Cat"]
    assert form.with_positive_class("0").values == form.values
