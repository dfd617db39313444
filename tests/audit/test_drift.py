import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from carclf.audit.drift import SIGNIFICANCE, Drift, Measure, Sample, measure_drift
from carclf.config import Audit, load_config
from carclf.errors import ConfigError

SENSITIVE = Audit(drift_warn=0, drift_stop=1)  # warns of everything that chance does not explain


def sample(num: int, seed: int, *, brighter: float = 0, features: float = 0, common: float = 0) -> Sample:
    """Return random images; a fraction ``common`` of them has class 0."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random(num) < common, 0, random.integers(0, 10, num))
    rows = pd.DataFrame({
        "label": labels.astype(str), "width": random.choice([640, 320], num, p=[0.9, 0.1]), "height": 480,
        "brightness": random.normal(110 + brighter, 20, num), "contrast": random.normal(50, 5, num),
        "sharpness": random.exponential(100, num),
    })
    vectors = random.exponential(size=(num, 24)) + features * (np.arange(24) == 0)
    return Sample(rows, vectors.astype(np.float32))


def concat(first: Sample, second: Sample) -> Sample:
    rows = pd.concat([first.rows, second.rows], ignore_index=True)
    return Sample(rows, np.concatenate([first.features, second.features]))


def measure(drift: Drift, name: str) -> Measure:
    return next(item for item in drift.measures if item.name == name)


def test_false_alarm_rate_is_at_most_the_significance() -> None:
    alarms = [measure_drift(sample(120, seed), sample(150, 10_000 + seed), SENSITIVE, seed).verdict != "ok"
              for seed in range(200)]
    assert sum(alarms) <= binom.ppf(0.999, len(alarms), SIGNIFICANCE)


@pytest.mark.parametrize(("planted", "name"), [
    ({"brighter": 30}, "brightness"), ({"features": 3}, "features"), ({"common": 0.6}, "class distribution"),
])
def test_planted_drift_is_reported_for_its_measure_only(planted: dict[str, float], name: str) -> None:
    drift = measure_drift(sample(800, 0, **planted), sample(800, 1), Audit(drift_warn=0.1, drift_stop=0.3), 0)
    assert {item.name: item.verdict for item in drift.measures} == {
        other: "stop" if other == name else "ok"
        for other in ("class distribution", "width", "height", "brightness", "contrast", "sharpness", "features")
    }
    assert (drift.verdict, drift.worst) == ("stop", name)
    assert drift.value > 0.3


def test_drift_between_the_limits_is_a_warning() -> None:
    drift = measure_drift(sample(800, 0, brighter=12), sample(800, 1), Audit(drift_warn=0.1, drift_stop=0.5), 0)
    assert (drift.verdict, drift.worst) == ("warn", "brightness")
    assert measure(drift, "brightness").note == "median 110.8 → 119.3"


def test_a_significant_but_small_difference_is_not_drift() -> None:
    drift = measure_drift(sample(15_000, 0, brighter=3), sample(15_000, 1), Audit(), 0)
    brightness = measure(drift, "brightness")
    assert brightness.p_value < 1e-6
    assert 0.02 < brightness.value < 0.1
    assert drift.verdict == "ok"


def test_a_large_difference_that_chance_explains_is_not_drift() -> None:
    drift = measure_drift(sample(12, 2), sample(12, 3), Audit(), 0)
    assert drift.value > 0.1
    assert drift.verdict == "ok"


def test_a_missing_class_is_a_warning_however_small_it_was() -> None:
    complete = sample(800, 0)
    kept = (complete.rows["label"] != "9").to_numpy()
    reduced = Sample(complete.rows[kept], complete.features[kept])
    drift = measure_drift(reduced, sample(800, 1), Audit(drift_warn=0.3), 0)
    assert (drift.verdict, drift.worst) == ("warn", "class distribution")
    assert "class 9" in drift.measures[0].note


def test_images_in_both_datasets_do_not_hide_the_drift_of_new_ones() -> None:
    reference, drifted = sample(800, 0), sample(300, 2, features=3)
    hashes = pd.Series([f"{number}" for number in range(1100)])
    both = concat(reference, drifted)
    drift = measure_drift(Sample(both.rows.assign(sha256=hashes), both.features),
                          Sample(reference.rows.assign(sha256=hashes[:800]), reference.features),
                          Audit(drift_warn=0.05), 0)
    features = measure(drift, "features")
    assert features.verdict == "warn"
    assert features.value > 0.1


def test_only_the_statistics_and_features_that_both_have_are_compared() -> None:
    partial = Sample(sample(100, 0).rows[["label", "width", "height"]], None)
    drift = measure_drift(partial, sample(100, 1), Audit(), 0)
    assert [item.name for item in drift.measures] == ["class distribution", "width", "height"]


def test_a_dataset_that_contains_the_reference_has_not_drifted() -> None:
    reference = sample(1000, 0)
    assert measure_drift(concat(reference, sample(100, 1)), reference, SENSITIVE, 0).verdict == "ok"


def test_a_warning_limit_above_the_stop_limit_raises_config_error() -> None:
    with pytest.raises(ConfigError, match=r"audit\.drift_warn = 0\.6.*audit\.drift_stop = 0\.5"):
        load_config("demo", {"audit.drift_warn": 0.6})
