"""Measure the false-alarm rate and the coverage of the paired bootstrap by simulation.

Two models have the same distribution, so that the true difference is 0, and share part of their errors. A false alarm
is a p-value of at most 5%; an interval covers if it contains the true value, which 100,000 more images give.

python -m benchmarks.bootstrap_coverage [--quick]
"""

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carclf.metrics import METRICS
from carclf.paired_bootstrap import Examples, compare_models, metric_interval

MEASURED = ("log_loss", "macro_f1", "roc_auc")
LEVEL = 0.05
MARGIN = 4.0  # of the label's logit
OVERCONFIDENCE = 1.5  # times the logits
NUM_TRUTH = 100_000


@dataclass(frozen=True)
class Scenario:
    """The number of classes and images, and the size of the groups, whose images share half of the errors."""

    num_classes: int
    num_images: int
    group_size: int = 1


SCENARIOS = (Scenario(3, 60), Scenario(10, 60), Scenario(10, 300), Scenario(10, 300, 5))


@dataclass(frozen=True)
class Sample:
    """Images with the probabilities of two models."""

    examples: Examples
    models: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Rates:
    """Fractions of the trials: false alarms of both one-sided tests, and coverage of both intervals."""

    worse: float
    better: float
    covers_difference: float
    covers_metric: float


def simulate(scenario: Scenario, rng: np.random.Generator) -> Sample:
    """Return images of equally frequent classes, predicted by two models of the same distribution."""
    num_groups = scenario.num_images // scenario.group_size
    groups = np.arange(num_groups).repeat(scenario.group_size)
    labels = groups % scenario.num_classes
    shared = MARGIN * np.eye(scenario.num_classes)[labels] + _noise(scenario, groups, rng)
    models = tuple(_softmax(OVERCONFIDENCE * (shared + _noise(scenario, groups, rng))) for _ in range(2))
    group_names = [str(group) for group in groups] if scenario.group_size > 1 else []
    class_names = [str(label) for label in range(scenario.num_classes)]
    return Sample(Examples(labels, class_names, group_names), (models[0], models[1]))


def measure(name: str, scenario: Scenario, num_trials: int, seed: int = 0) -> Rates:
    """Return the rates of a metric."""
    metric, rng = METRICS[name], np.random.default_rng(seed)
    population = simulate(Scenario(scenario.num_classes, NUM_TRUTH, scenario.group_size), rng)
    truth = metric.compute(population.examples.labels, population.models[0])
    outcomes = []
    for _ in range(num_trials):
        sample = simulate(scenario, rng)
        test = compare_models(metric, sample.examples, *sample.models)
        low, high = metric_interval(metric, sample.examples, sample.models[0])
        covers_difference = test.interval[0] <= 0 <= test.interval[1]
        outcomes.append((test.p_worse <= LEVEL, test.p_better <= LEVEL, covers_difference, low <= truth <= high))
    return Rates(*np.mean(outcomes, axis=0).tolist())


def _noise(scenario: Scenario, groups: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    noise = rng.normal(size=(len(groups), scenario.num_classes))
    if scenario.group_size == 1:
        return noise
    of_groups = rng.normal(size=(groups[-1] + 1, scenario.num_classes))
    return np.asarray((noise + of_groups[groups]) / np.sqrt(2))


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=1))


def main() -> None:
    """Print a table of the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 trials instead of 400")
    num_trials = 50 if parser.parse_args().quick else 400
    print("| metric | classes, images | groups of | false alarm worse, better | coverage difference, metric |")
    print("|---|---|---|---|---|")
    for name in MEASURED:
        for scenario in SCENARIOS:
            rates = measure(name, scenario, num_trials)
            print(f"| {METRICS[name].noun} | {scenario.num_classes}, {scenario.num_images} | {scenario.group_size} | "
                  f"{rates.worse:.3f}, {rates.better:.3f} | {rates.covers_difference:.3f}, {rates.covers_metric:.3f} |",
                  flush=True)


if __name__ == "__main__":
    main()
