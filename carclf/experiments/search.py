"""A search over settings: Optuna proposes recipes, an experiment trains them, and its outcome is told to Optuna.

A study's journal lies in the store, ``studies/<name>.log``, so that the next experiment of it proposes better ones.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.config import iter_settings, parse_override
from carclf.errors import ConfigError, ServiceError
from carclf.experiments.plan import EXPERIMENT_NAME, Plan
from carclf.services.storage import Store

if TYPE_CHECKING:
    import optuna

TRIAL_NAME = re.compile(r"trial-(\d+)")


def parse_range(text: str) -> tuple[str, Any]:
    """A setting and Optuna's distribution of it: ``key=low..high`` or ``key=a|b|c``; ConfigError where it is neither.

    Numbers that are a factor of ten or more apart are searched by their logarithm.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, equals, value = text.partition("=")
    if key not in dict(iter_settings()):
        raise ConfigError(f"{key!r} is no setting that could be searched. They are {', '.join(dict(iter_settings()))}.")
    if equals and "|" in value:
        return key, CategoricalDistribution([parse_override(f"{key}={word}")[1] for word in value.split("|")])
    ends = [parse_override(f"{key}={word}")[1] for word in value.split("..")] if equals else []
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or ends[0] >= ends[1]:
        raise ConfigError(f"{text!r} is no range: give key=low..high or key=one|another, such as "
                          "fine_tune.learning_rate=1e-4..1e-2.")
    low, high = ends
    logarithmic = low > 0 and high >= 10 * low
    if isinstance(low, int) and isinstance(high, int):
        return key, IntDistribution(low, high, log=logarithmic)
    return key, FloatDistribution(float(low), float(high), log=logarithmic)


def boundary_recipes(ranges: Sequence[str], num_trials: int) -> dict[str, dict[str, Any]]:
    """As many recipes as a search would propose, of the first, the last and every named value of its ranges.

    ConfigError for two ranges of one setting.
    """
    space = [parse_range(text) for text in ranges]
    if len(dict(space)) < len(space):
        raise ConfigError(f"A setting has two ranges in {', '.join(ranges)}. Give it one.")
    values = {key: getattr(found, "choices", None) or (found.low, found.high) for key, found in space}
    return {f"trial-{number}": {key: those[number % len(those)] for key, those in values.items()}
            for number in range(max(num_trials, *map(len, values.values())) if values else 0)}


def propose(name: str, ranges: Sequence[str], num_trials: int, store: Store) -> dict[str, dict[str, Any]]:
    """Recipes ``trial-<n>`` and what each changes, from what the study knows; they are kept in it as running."""
    space = dict(parse_range(text) for text in ranges)
    with _study(name, store) as study:
        trials = [study.ask(space) for _ in range(num_trials)]
        return {f"trial-{trial.number}": dict(trial.params) for trial in trials}


def num_earlier_trials(plan: Plan) -> int:
    """How many recipes the plan's study had proposed before: by what they reached the plan's own were chosen."""
    own = [int(found[1]) for found in map(TRIAL_NAME.fullmatch, plan.recipes) if found]
    return min(own, default=0) if plan.study else 0


def report_results(name: str, found: dict[str, Any], store: Store) -> None:
    """Tell the study what an experiment's ``outcome.json`` says of its trials; those that are told stay."""
    from optuna.trial import TrialState

    reached = {row["recipe"]: row["accuracy"] for row in found["rows"]}
    pruned = {row["recipe"]: row["val_accuracy"] for row in found["stopped_early"]}
    with _study(name, store) as study:
        for trial in study.get_trials(states=[TrialState.RUNNING]):
            recipe = f"trial-{trial.number}"
            if recipe in reached:
                study.tell(trial.number, reached[recipe])
            elif recipe in pruned:
                study.tell(trial.number, pruned[recipe])
            elif recipe in _of_failed(found):
                study.tell(trial.number, state=TrialState.FAIL)


def _of_failed(found: dict[str, Any]) -> set[str]:
    runs = " ".join(row["run"] for row in found["failed"])
    return {match.group() for match in TRIAL_NAME.finditer(runs)}


@contextmanager
def _study(name: str, store: Store) -> "Iterator[optuna.Study]":
    """The study, whose journal is put back into the store; ServiceError where another one wrote meanwhile."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not EXPERIMENT_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a study: use letters, digits and ._- only.")
    key = f"studies/{name}.log"
    before = store.read(key)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / "journal.log"
        path.write_bytes(before.data if before else b"")
        sampler = optuna.samplers.TPESampler(seed=len(before.data) if before else 0, constant_liar=True)
        yield optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), sampler=sampler,
                                  study_name=name, direction="maximize", load_if_exists=True)
        if not store.write_if(key, path.read_bytes(), before.version if before else None):
            raise ServiceError(f"The study {name!r} in {store.url} was changed by another experiment. Try again.")
