"""Two runs side by side, in numbers computed by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from gate_candidates import Candidate, build_artifact, build_candidate, build_split

from carclf.artifacts import Provenance, Split
from carclf.config import load_config
from carclf.dashboard.run_comparison import compare_runs
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def run_of(store: Store, name: str, one: Candidate, **settings: object) -> Run:
    run = Run.start_or_resume(name, store, "demo", load_config("demo", settings))
    for stage, artifact in (("download", one.archive), ("split", one.split), ("fine_tune", one.model),
                            ("evaluate", one.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def rows(num: int, subsets: Sequence[str], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{n}.jpg" for n in range(num)], "label": [n % 3 for n in range(num)],
                         "subset": subsets, "sha256": [f"{n:064x}" for n in range(num)], "source": "train"} | columns)


def test_a_paired_test_recalls_and_changed_images_are_those_computed_by_hand(store: Store) -> None:
    split = build_split(store)
    # a is wrong on 10 images, b on the first of them and two others: 9 gained, 2 lost, 1 both wrong, 48 both right
    run_of(store, "a", build_candidate(store, "a", range(10), split=split), **{"seed": 1})
    run_of(store, "b", build_candidate(store, "b", [0, 20, 21], split=split, latency_ms=4.0), **{"head.epochs": 7})
    found = compare_runs(store, "a", "b")
    paired = found["paired"]
    assert paired | {"interval": []} == {
        "num_images": 60, "only_a_correct": 2, "only_b_correct": 9, "both_right": 48, "both_wrong": 1, "num_trained_on": 0, "num_mismatched": 0,
        "num_same_members": 0, "accuracy_a": 50 / 60, "accuracy_b": 57 / 60, "difference": 7 / 60, "interval": [],
        # twice the chance of 9 heads or more in 11 throws: (55 + 11 + 1) / 2^11
        "p_value": pytest.approx(2 * 67 / 2**11),
    }
    # where the score of the likeliest table with that difference, found by search, is 1.959964
    assert paired["interval"] == [pytest.approx(0.00978674), pytest.approx(0.23533704)]
    low, high = paired["interval"]
    # labels are n % 3, 20 of each: a is wrong on 4, 3, 3 of them; b on 0 (class 0), 20 (class 2), 21 (class 0)
    assert [one | {"difference": round(one["difference"], 4)} for one in found["classes"]] == [
        {"label": 0, "num": 20, "a": 0.8, "b": 0.9, "difference": 0.1},
        {"label": 2, "num": 20, "a": 0.85, "b": 0.95, "difference": 0.1},
        {"label": 1, "num": 20, "a": 0.85, "b": 1.0, "difference": 0.15},
    ]
    assert found["num_changed"] == 11
    changed = {one["id"]: (one["label"], one["a"], one["b"], one["kind"]) for one in found["changed"]}
    assert changed == {f"{n}.jpg": (n % 3, (n + 1) % 3, n % 3, "gained") for n in range(1, 10)} | {
        "20.jpg": (2, 2, 0, "lost"), "21.jpg": (0, 0, 1, "lost")}
    assert found["changed"][0] | {"id": ""} == {
        "id": "", "path": "", "label": 1, "a": 2, "a_probability": None, "b": 1, "b_probability": None,
        "kind": "gained", "picture": ""}
    assert found["settings"] == [{"name": "seed", "a": 1, "b": 0}, {"name": "head.epochs", "a": 10, "b": 7}]
    assert {"name": "latency_ms", "a": 5.0, "b": 4.0, "difference": -1.0} in found["metrics"]
    assert found["verdict"] == "inconclusive"
    assert found["summary"] == (
        "Neither b nor a is shown to be better: 0.9500 against 0.8333 on 60 common images, a difference of +11.67 "
        f"points (95% interval {100 * low:+.2f} to {100 * high:+.2f}, p = 0.0654).")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(("first", "second", "verdict", "begin"), [
    (range(20), range(4), "better", "b is better than a: 0.9333 against 0.6667 on 60"),
    (range(4), range(20), "worse", "b is worse than a: 0.6667 against 0.9333 on 60"),
    (range(4), range(4), "inconclusive", "Neither b nor a is shown to be better: 0.9333 against 0.9333"),
])
def test_the_sentence_says_who_is_better(
    store: Store, first: range, second: range, verdict: str, begin: str
) -> None:
    split = build_split(store)
    for name, wrong in (("a", first), ("b", second)):
        run_of(store, name, build_candidate(store, name, wrong, split=split))
    found = compare_runs(store, "a", "b")
    assert found["verdict"] == verdict and found["summary"].startswith(begin)


def test_images_that_one_was_trained_on_or_that_are_others_now_do_not_count(store: Store) -> None:
    """Of 30: 0-9 train a, 5-14 train b, so 15-29 are in both validations; 15 has another label, 16 other bytes."""
    one = rows(30, ["train"] * 10 + ["val"] * 20)
    other = rows(30, ["val"] * 5 + ["train"] * 10 + ["val"] * 15)
    other.loc[15, "label"] = 1
    other.loc[16, "sha256"] = "f" * 64
    # 17 lies under the name 99.jpg in b's training: it is known by its bytes
    copy = rows(1, ["train"]).assign(id="99.jpg", sha256=one.loc[17, "sha256"])
    splits = [build_artifact(store, Split, Provenance(1, {}, {"name": name}), {"class_names": [0, 1, 2]}, {"split.parquet": table, "split_history.parquet": table})
              for name, table in (("one", one), ("other", pd.concat([other, copy])))]
    for name, split in zip("ab", splits, strict=True):
        run_of(store, name, build_candidate(store, name, [], split=split))
    paired = compare_runs(store, "a", "b")["paired"]
    assert {name: paired[name] for name in ("num_images", "num_trained_on", "num_mismatched", "both_right")} == {
        "num_images": 12, "num_trained_on": 1, "num_mismatched": 2, "both_right": 12}


def test_runs_without_a_common_image_are_not_compared(store: Store) -> None:
    splits = [build_split(store, 6, name, subsets) for name, subsets in (
        ("one", ["val"] * 3 + ["train"] * 3), ("other", ["train"] * 3 + ["val"] * 3))]
    for name, split in zip("ab", splits, strict=True):
        run_of(store, name, build_candidate(store, name, [], split=split))
    found = compare_runs(store, "a", "b")
    assert (found["verdict"], found["classes"], found["changed"], found["paired"]["num_images"]) == ("none", [], [], 0)
    assert found["summary"] == ("a and b cannot be compared: there is no image that both validated on and neither was "
                                 "trained on.")


def test_what_cannot_be_compared_is_refused_with_the_mend(store: Store) -> None:
    run_of(store, "whole", build_candidate(store, "whole"))
    Run.start_or_resume("begun", store, "demo", load_config("demo"))
    gone = run_of(store, "gone", build_candidate(store, "gone", [1]))
    for other, error, text in (
        ("whole", ConfigError, "'whole' is one run. Give two different ones: carclf runs compare A B"),
        ("nobody", ConfigError, f"There is no run 'nobody' in {store.url}. List them: carclf runs list --store "
         f"{store.url}"),
        ("../whole", ConfigError, "'../whole' is no run id: use letters, digits and ._- only."),
        ("begun", ConfigError, "The run 'begun' has no split yet, which is needed to compare. Make it first: "
                               "carclf split --run begun"),
    ):
        with pytest.raises(error) as told:
            compare_runs(store, "whole", other)
        assert str(told.value) == text
    key = gone.record["stages"]["evaluate"]["key"]
    Path(store.url, "evaluations", key, "manifest.json").unlink()
    with pytest.raises(DataError, match=f"evaluations/{key} is gone from"):
        compare_runs(store, "whole", "gone")
