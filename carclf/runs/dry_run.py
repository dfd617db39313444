"""What a run would reuse and how long it would take, judged by the records of earlier runs."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from carclf.config import Config
from carclf.errors import CarclfError
from carclf.runs.index import list_runs
from carclf.runs.record import Record, read_record
from carclf.services.storage import Store
from carclf.stages.chain import STAGES, stages_of

MAX_RECORDS = 20  # of earlier runs to read
MAX_TIMES = 5  # of a stage, from which its duration is estimated
# The other stages depend on the champion of that moment and on Kaggle.
ESTIMATED_STAGES = ("download", "validate", "split", "train_head", "fine_tune", "evaluate", "refit")


@dataclass(frozen=True)
class ExpectedStage:
    """A stage of a run that does not exist yet.

    ``reused_from`` is the newest run with the same settings of this stage and of its inputs, or "". ``seconds`` is the
    median duration of the stage in runs of the same recipe, or None if there are none; ``num_times`` is their number.
    """

    stage: str
    reused_from: str
    seconds: float | None
    num_times: int


def dry_run(store: Store, recipe: str, config: Config) -> list[ExpectedStage]:
    """Return the stages of a new run up to its model and evaluation, in order.

    An artifact is reused only if the source, the label fixes and the weights are unchanged, too, which only the run
    itself can find out. The store is not changed.
    """
    records = list(_earlier_records(store))
    matching = {} if config.force else _matching_runs(records, config)
    stages = [stage for stage in ESTIMATED_STAGES if stage in stages_of(config.model_dump())]
    times = {stage: _seconds(records, recipe, stage) for stage in stages}
    return [
        ExpectedStage(stage, matching.get(stage, ""), statistics.median(times[stage]) if times[stage] else None,
                      len(times[stage]))
        for stage in stages
    ]


def _earlier_records(store: Store) -> Iterator[Record]:
    """Yield the readable records of the newest runs with a result."""
    for row in list_runs(store)[:MAX_RECORDS]:
        try:
            record = read_record(store, row["run"])
        except CarclfError:  # a damaged record is reported by its page
            continue
        if record and record["stages"]:
            yield record


def _matching_runs(records: list[Record], config: Config) -> dict[str, str]:
    """Return by stage the newest run whose result this configuration would reuse."""
    settings = {stage: STAGES[stage].settings(config) for stage in stages_of(config.model_dump())}
    matching: dict[str, str] = {}
    for record in records:
        try:
            earlier = Config.model_validate(record["config"])
        except ValidationError:  # of an older version
            continue
        for stage in [] if earlier.force else _equal_stages(record, earlier, settings):
            matching.setdefault(stage, record["run"])
    return matching


def _equal_stages(record: Record, earlier: Config, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the stages whose settings and inputs are the same, and which have a result."""
    equal: list[str] = []
    for stage, values in settings.items():
        has_inputs = set(STAGES[stage].inputs) & settings.keys() <= set(equal)
        if has_inputs and record["stages"].get(stage, {}).get("key") and STAGES[stage].settings(earlier) == values:
            equal.append(stage)
    return equal


def _seconds(records: list[Record], recipe: str, stage: str) -> list[float]:
    """Return the newest durations of a stage that was not reused."""
    results: list[Any] = [record["stages"].get(stage, {}) for record in records if record["recipe"] == recipe]
    created = [result for result in results if result.get("key") and not result.get("reused")]
    return [float(result["seconds"]) for result in created[:MAX_TIMES]]
