"""Drift is found where it was planted, and silence is kept where there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from carclf.audit.drift import SIGNIFICANCE, measure_drift
from carclf.config import Audit, load_config
from carclf.errors import ConfigError

ALERT = Audit(drift_warn=0, drift_stop=1)  # whatever chance would hardly make
Data = tuple[pd.DataFrame, np.ndarray]


def data(num: int, seed: int, *, brighter: float = 0, features: float = 0, common: float = 0) -> Data:
    """Rows and features; ``common`` of the rows get class 0."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random(num) < common, 0, random.integers(0, 10, num))
    rows = pd.DataFrame({
        "label": labels, "width": random.choice([640, 320], num, p=[0.9, 0.1]), "height": 480,
        "brightness": random.normal(110 + brighter, 20, num), "contrast": random.normal(50, 5, num),
        "sharpness": random.exponential(100, num),
    })
    return rows, (random.exponential(size=(num, 24)) + features * (np.arange(24) == 0)).astype(np.float32)


def test_without_drift_alarms_are_no_more_frequent_than_the_level() -> None:
    alarms = [measure_drift(data(120, seed), data(150, 10_000 + seed), ALERT, seed)["verdict"] != "ok"
              for seed in range(200)]
    assert sum(alarms) <= binom.ppf(0.999, len(alarms), SIGNIFICANCE)


@pytest.mark.parametrize(
    ("planted", "measure"),
    [({"brighter": 30}, "brightness"), ({"features": 3}, "features"), ({"common": 0.6}, "class distribution")],
)
def test_planted_drift_is_named_and_the_rest_is_quiet(planted: dict[str, float], measure: str) -> None:
    found = measure_drift(data(800, 0, **planted), data(800, 1), Audit(drift_warn=0.1, drift_stop=0.3), 0)
    assert {one["name"]: one["verdict"] for one in found["measures"]} == {
        name: "stop" if name == measure else "ok"
        for name in ("class distribution", "width", "height", "brightness", "contrast", "sharpness", "features")
    }
    assert (found["verdict"], found["worst"]) == ("stop", measure) and found["value"] > 0.3


def test_a_drift_between_the_limits_is_only_warned_of() -> None:
    found = measure_drift(data(800, 0, brighter=12), data(800, 1), Audit(drift_warn=0.1, drift_stop=0.5), 0)
    assert (found["verdict"], found["worst"]) == ("warn", "brightness")
    brightness = next(one for one in found["measures"] if one["name"] == "brightness")
    assert brightness["note"] == "median 110.8 → 119.3"


def test_a_sure_but_small_difference_of_large_datasets_is_no_drift() -> None:
    found = measure_drift(data(15_000, 0, brighter=3), data(15_000, 1), Audit(), 0)
    brightness = next(one for one in found["measures"] if one["name"] == "brightness")
    assert brightness["p"] < 1e-6 and 0.02 < brightness["value"] < 0.1 and found["verdict"] == "ok"


def test_a_large_difference_that_chance_makes_of_few_pictures_is_no_drift() -> None:
    found = measure_drift(data(12, 2), data(12, 3), Audit(), 0)
    assert found["value"] > 0.1 and found["verdict"] == "ok"


def test_a_class_that_is_gone_is_warned_of_however_small_it_was() -> None:
    (rows, features), other = data(800, 0), data(800, 1)
    kept = (rows["label"] != 9).to_numpy()
    found = measure_drift((rows[kept], features[kept]), other, Audit(drift_warn=0.3), 0)
    assert (found["verdict"], found["worst"]) == ("warn", "class distribution")
    assert found["measures"][0]["note"] == "class 9 has no pictures any more"


def test_pictures_that_both_datasets_have_do_not_hide_what_is_new() -> None:
    (rows, features), (more, drifted) = data(800, 0), data(300, 2, features=3)
    names = pd.Series([f"{number}" for number in range(1100)])
    own = pd.concat([rows, more], ignore_index=True).assign(sha256=names)
    found = measure_drift((own, np.concatenate([features, drifted])), (rows.assign(sha256=names[:800]), features),
                          Audit(drift_warn=0.05), 0)
    told = next(one for one in found["measures"] if one["name"] == "features")
    assert told["verdict"] == "warn" and told["value"] > 0.1


def test_old_indexes_without_measures_and_missing_features_are_compared_by_what_is_known() -> None:
    (rows, _), other = data(100, 0), data(100, 1)
    found = measure_drift((rows[["label", "width", "height"]], None), other, Audit(), 0)
    assert [one["name"] for one in found["measures"]] == ["class distribution", "width", "height"]


def test_a_dataset_that_contains_the_other_has_not_drifted() -> None:
    (rows, features), (more, others) = data(1000, 0), data(100, 1)
    joined = (pd.concat([rows, more], ignore_index=True), np.concatenate([features, others]))
    assert measure_drift(joined, (rows, features), ALERT, 0)["verdict"] == "ok"


def test_a_warning_limit_above_the_stop_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"audit\.drift_warn = 0\.6 is above audit\.drift_stop = 0\.5"):
        load_config("demo", {"audit.drift_warn": 0.6})
