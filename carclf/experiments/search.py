"""Search over settings: Optuna proposes recipes, an experiment trains them, and Optuna gets the results.

The store keeps the journal of a study in ``studies/<name>.log``, so that its next experiment proposes better recipes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from carclf.config import iter_settings, parse_override
from carclf.errors import ConfigError, DataError, ServiceError
from carclf.experiments.plan import EXPERIMENT_NAME, Plan
from carclf.experiments.variants import Changes
from carclf.metrics import METRICS
from carclf.services.storage import Store
from carclf.temporary import temporary_folder

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

TRIAL_NAME = re.compile(r"trial-(\d+)")
MIN_LOG_RATIO = 10  # a positive range this wide or wider is searched on a logarithmic scale


def parse_range(text: str) -> tuple[str, "CategoricalDistribution | FloatDistribution | IntDistribution"]:
    """Parse ``key=low..high`` or ``key=a|b|c`` into a setting and its values; raise ConfigError if it is invalid."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, equals, value = text.partition("=")
    settings = dict(iter_settings())
    if key not in settings:
        raise ConfigError(f"Unknown setting {key!r} in the range {text!r}. The settings are {', '.join(settings)}.")
    if equals and "|" in value:
        return key, CategoricalDistribution([_parse_value(key, word) for word in value.split("|")])
    match [_parse_value(key, word) for word in value.split("..")] if equals else []:
        case [int(low), int(high)] if low < high:
            return key, IntDistribution(low, high, log=_is_logarithmic(low, high))
        case [int() | float() as low, int() | float() as high] if low < high:
            return key, FloatDistribution(float(low), float(high), log=_is_logarithmic(low, high))
    raise ConfigError(f"Invalid range {text!r}. Give key=low..high or key=a|b, such as "
                      "fine_tune.learning_rate=1e-4..1e-2.")


def _parse_value(key: str, word: str) -> Any:
    return parse_override(f"{key}={word}")[1]


def _is_logarithmic(low: float, high: float) -> bool:
    return low > 0 and high >= MIN_LOG_RATIO * low


def boundary_recipes(ranges: Sequence[str], num_trials: int) -> dict[str, Changes]:
    """Return at least ``num_trials`` recipes with the ends and all choices of the ranges, to check their validity.

    Raise ConfigError if a range is invalid, or if a setting has two ranges.
    """
    from optuna.distributions import CategoricalDistribution

    space = [parse_range(text) for text in ranges]
    if repeated := [key for number, (key, _) in enumerate(space) if key in dict(space[:number])]:
        raise ConfigError(f"{repeated[0]} has two ranges. Remove one.")
    values: dict[str, tuple[Any, ...]] = {
        key: values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)
        for key, values in space
    }
    num_recipes = max(num_trials, *map(len, values.values())) if values else 0
    return {
        f"trial-{number}": {key: choices[number % len(choices)] for key, choices in values.items()}
        for number in range(num_recipes)
    }


def propose(name: str, ranges: Sequence[str], num_trials: int, store: Store) -> dict[str, Changes]:
    """Let the study propose recipes named ``trial-<n>``, which it keeps as running trials."""
    space: dict[str, BaseDistribution] = dict(map(parse_range, ranges))
    with _open_study(name, store) as study:
        trials = [study.ask(space) for _ in range(num_trials)]
        return {f"trial-{trial.number}": dict(trial.params) for trial in trials}


def num_earlier_trials(plan: Plan) -> int:
    """Return the number of the study's trials before this plan; their results influenced the choice of its trials."""
    numbers = [int(match[1]) for match in map(TRIAL_NAME.fullmatch, plan.recipes) if match]
    return min(numbers, default=0) if plan.study else 0


def report_results(name: str, outcome: Mapping[str, Any], store: Store) -> None:
    """Report the results in an experiment's ``outcome.json`` to the study. Finished trials stay unchanged.

    A study maximizes. It was created before the metric was known, so a loss is reported with a minus sign.
    """
    from optuna.trial import TrialState

    values = {row["recipe"]: row["val_metric"] for row in outcome["stopped_early"]}
    values |= {row["recipe"]: row["value"] for row in outcome["rows"]}
    metric = METRICS[outcome["metric"]]
    failed = {match.group() for row in outcome["failed"] for match in TRIAL_NAME.finditer(row["run"])}
    with _open_study(name, store) as study:
        for trial in study.get_trials(states=[TrialState.RUNNING]):
            recipe = f"trial-{trial.number}"
            if recipe in values:
                study.tell(trial.number, metric.improvement(values[recipe], 0))
            elif recipe in failed:
                study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def _open_study(name: str, store: Store) -> "Iterator[optuna.Study]":
    """Yield the study, and write its journal back to the store."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not EXPERIMENT_NAME.fullmatch(name):
        raise ConfigError(f"Invalid study name {name!r}: use letters, digits and ._- only.")
    key = f"studies/{name}.log"
    stored = store.read(key)
    journal = stored.data if stored else b""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with temporary_folder() as folder:
        path = folder / "journal.log"
        path.write_bytes(journal)
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                sampler=optuna.samplers.TPESampler(seed=len(journal), constant_liar=True),
                study_name=name, direction="maximize", load_if_exists=True,
            )
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"{key} in {store.url} is damaged: {error!r}. Restore it from a backup, or give another "
                            "--study.") from error
        yield study
        if not store.write_if(key, path.read_bytes(), stored.version if stored else None):
            raise ServiceError(f"Another experiment changed the study {name!r} in {store.url} meanwhile. Try again.")
