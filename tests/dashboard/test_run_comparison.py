"""Tests of the comparison of two runs, with numbers computed by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from gate_candidates import build_artifact, build_candidate, build_split
from recorded_runs import record_candidate

from carclf.artifacts import Provenance, Split
from carclf.config import load_config
from carclf.dashboard.comparison_facts import ClassDifference, Difference
from carclf.dashboard.run_comparison import compare_runs
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Run
from carclf.services.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def rows(num: int, subsets: Sequence[str], **columns: object) -> pd.DataFrame:
    sha256 = [f"{n:064x}" for n in range(num)]
    return pd.DataFrame({"id": [f"{n}.jpg" for n in range(num)], "label": [str(n % 3) for n in range(num)],
                         "subset": subsets, "sha256": sha256, "pixels_sha256": sha256, "phash": 0,
                         "color_signature": b"", "source": "train"} | columns)


@pytest.fixture
def two_runs(store: Store) -> None:
    """Of 60 images, run a misclassifies 10, and run b the first of these and two others."""
    split = build_split(store)
    record_candidate(store, "a", build_candidate(store, "a", range(10), split=split), **{"seed": 1})
    candidate = build_candidate(store, "b", [0, 20, 21], split=split, latency_ms=4.0)
    record_candidate(store, "b", candidate, **{"head.epochs": 7})


@pytest.mark.usefixtures("two_runs")
def test_the_paired_result_matches_the_manual_computation(store: Store) -> None:
    paired = compare_runs(store, "a", "b").paired
    assert paired.model_dump(exclude={"interval"}) == {
        "num_images": 60, "only_a_correct": 2, "only_b_correct": 9, "both_correct": 48, "both_incorrect": 1,
        "num_trained_on": 0, "num_mismatched": 0, "num_same_members": 0,
        "accuracy_a": 50 / 60, "accuracy_b": 57 / 60, "metric": "accuracy", "a": 50 / 60, "b": 57 / 60,
        "difference": 7 / 60,
        # twice the probability of 9 heads or more in 11 tosses: (55 + 11 + 1) / 2^11
        "p_value": pytest.approx(2 * 67 / 2**11),
    }
    # the differences whose score statistic is 1.959964, by a numerical search
    assert paired.interval == (pytest.approx(0.00978674), pytest.approx(0.23533704))


def test_runs_are_compared_by_their_metric_in_its_direction(store: Store) -> None:
    split = build_split(store, metric="log_loss")
    a, b = (build_candidate(store, name, range(num), split=split) for name, num in (("a", 25), ("b", 2)))
    record_candidate(store, "a", a)
    record_candidate(store, "b", b)
    comparison = compare_runs(store, "a", "b")
    paired = comparison.paired
    assert comparison.conclusion == "better" and paired.metric == "log_loss"
    assert paired.difference == pytest.approx(paired.b - paired.a) and paired.interval[1] < 0 < paired.accuracy_b
    assert (paired.a, paired.b) == tuple(pytest.approx(item.evaluation.number("val_metric")) for item in (a, b))
    assert compare_runs(store, "b", "a").conclusion == "worse" and "log loss (lower is better)" in comparison.summary


def test_runs_with_different_metrics_cannot_be_compared(store: Store) -> None:
    for name, metric in (("a", "log_loss"), ("b", "accuracy")):
        candidate = build_candidate(store, name, split=build_split(store, name=name, metric=metric))
        record_candidate(store, name, candidate)
    with pytest.raises(ConfigError, match=r"data\.metric"):
        compare_runs(store, "a", "b")


@pytest.mark.usefixtures("two_runs")
def test_class_recalls_match_the_manual_computation(store: Store) -> None:
    """There are 20 images of each class; a misclassifies 4, 3 and 3 of them, b two of class 0 and one of class 2."""
    classes = compare_runs(store, "a", "b").classes
    assert [row.model_copy(update={"difference": round(row.difference, 4)}) for row in classes] == [
        ClassDifference(label="0", num_images=20, a=0.8, b=0.9, difference=0.1),
        ClassDifference(label="2", num_images=20, a=0.85, b=0.95, difference=0.1),
        ClassDifference(label="1", num_images=20, a=0.85, b=1.0, difference=0.15),
    ]


@pytest.mark.usefixtures("two_runs")
def test_changed_predictions_are_gained_or_lost(store: Store) -> None:
    comparison = compare_runs(store, "a", "b")
    changed = {row.id: (row.label, row.a, row.b, row.kind) for row in comparison.changed_predictions}
    assert changed == {f"{n}.jpg": (str(n % 3), str((n + 1) % 3), str(n % 3), "gained") for n in range(1, 10)} | {
        "20.jpg": ("2", "2", "0", "lost"), "21.jpg": ("0", "0", "1", "lost")}
    assert comparison.num_changed == 11
    probabilities = [row.b_probability for row in comparison.changed_predictions]
    assert min(probabilities) > 0.5 and max(probabilities) < 1 and probabilities == sorted(probabilities, reverse=True)
    assert {row.image for row in comparison.changed_predictions} == {""}


@pytest.mark.usefixtures("two_runs")
def test_settings_metrics_and_conclusion_are_compared(store: Store) -> None:
    comparison = compare_runs(store, "a", "b")
    assert comparison.settings == (
        Difference(name="seed", a=1, b=0), Difference(name="head.epochs", a=10, b=7))
    assert Difference(name="latency_ms", a=5.0, b=4.0, difference=-1.0) in comparison.metrics
    assert comparison.conclusion == "inconclusive"
    low, high = comparison.paired.interval or (0.0, 0.0)
    assert comparison.summary == (
        "Neither b nor a is shown to be better: 0.9500 against 0.8333 on 60 common images, a difference of +11.67 "
        f"points (95% interval {100 * low:+.2f} to {100 * high:+.2f}, p = 0.0654).")
    data = comparison.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@pytest.mark.parametrize(("wrong_a", "wrong_b", "conclusion", "start"), [
    (range(20), range(4), "better", "b is better than a: 0.9333 against 0.6667 on 60"),
    (range(4), range(20), "worse", "b is worse than a: 0.6667 against 0.9333 on 60"),
    (range(4), range(4), "inconclusive", "Neither b nor a is shown to be better: 0.9333 against 0.9333"),
])
def test_the_conclusion_depends_on_the_paired_test(
    store: Store, wrong_a: range, wrong_b: range, conclusion: str, start: str
) -> None:
    split = build_split(store)
    for name, wrong in (("a", wrong_a), ("b", wrong_b)):
        record_candidate(store, name, build_candidate(store, name, wrong, split=split))
    comparison = compare_runs(store, "a", "b")
    assert comparison.conclusion == conclusion and comparison.summary.startswith(start)


def test_trained_on_and_mismatched_images_are_excluded(store: Store) -> None:
    """Of 30 images, a was trained on 0-9 and b on 5-14, so 15-29 are common validation images.

    In b's split, 15 has another label, 16 has other content, and 17 is in the training subset under another name.
    """
    rows_a = rows(30, ["train"] * 10 + ["val"] * 20)
    rows_b = rows(30, ["val"] * 5 + ["train"] * 10 + ["val"] * 15)
    rows_b.loc[15, "label"] = "1"
    rows_b.loc[16, "sha256"] = "f" * 64
    copy = rows(1, ["train"]).assign(id="99.jpg", sha256=rows_a.loc[17, "sha256"])
    for name, table in (("a", rows_a), ("b", pd.concat([rows_b, copy]))):
        files = {"split.parquet": table, "split_history.parquet": table}
        split = build_artifact(store, Split, Provenance(1, {}, {"name": name}), {"class_names": ["0", "1", "2"]}, files)
        record_candidate(store, name, build_candidate(store, name, [], split=split))
    paired = compare_runs(store, "a", "b").paired
    assert (paired.num_images, paired.num_trained_on, paired.num_mismatched, paired.both_correct) == (12, 1, 2, 12)


def test_runs_without_common_images_are_not_comparable(store: Store) -> None:
    for name, subsets in (("a", ["val"] * 3 + ["train"] * 3), ("b", ["train"] * 3 + ["val"] * 3)):
        split = build_split(store, 6, name, subsets)
        record_candidate(store, name, build_candidate(store, name, [], split=split))
    comparison = compare_runs(store, "a", "b")
    assert (comparison.conclusion, comparison.classes, comparison.changed_predictions) == ("not_comparable", (), ())
    assert (comparison.paired.num_images, comparison.paired.p_value) == (0, None)
    assert comparison.summary.startswith("a and b cannot be compared")


@pytest.mark.parametrize(("other", "fix"), [
    ("whole", "carclf runs compare A B"), ("nobody", "carclf runs list --store"), ("../whole", "../whole"),
    ("started", "carclf split --run started"),
])
def test_runs_that_cannot_be_compared_raise_config_error(store: Store, other: str, fix: str) -> None:
    record_candidate(store, "whole", build_candidate(store, "whole"))
    Run.start_or_resume("started", store, "demo", load_config("demo"))
    with pytest.raises(ConfigError) as raised:
        compare_runs(store, "whole", other)
    assert fix in str(raised.value) and repr(other) in str(raised.value)


def test_a_missing_artifact_raises_data_error(store: Store) -> None:
    record_candidate(store, "whole", build_candidate(store, "whole"))
    run = record_candidate(store, "incomplete", build_candidate(store, "incomplete", [1]))
    key = f"evaluations/{run.record['stages']['evaluate']['key']}"
    Path(store.url, key, "manifest.json").unlink()
    with pytest.raises(DataError, match=key):
        compare_runs(store, "whole", "incomplete")
