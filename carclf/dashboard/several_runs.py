"""Compare up to ten runs: each one with the first, the baseline."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from carclf.config import flatten
from carclf.dashboard.charts import Chart
from carclf.dashboard.comparison_facts import PairedResult
from carclf.dashboard.run_charts import overlaid_curves
from carclf.dashboard.run_comparison import paired_conclusion
from carclf.dashboard.run_facts import EMPTY, Epoch, read_epochs
from carclf.dashboard.run_list import to_csv
from carclf.dashboard.run_reader import MALFORMED_DATA_ERRORS, Facts, RunReader, open_run
from carclf.errors import CarclfError, ConfigError
from carclf.metrics import METRICS
from carclf.runs.index import Row
from carclf.services.storage import Store

MAX_RUNS = 10
COLUMNS = ("run", "recipe", "state", "decision", "metric", "val_metric", "val_metric_low", "val_metric_high",
           "val_accuracy", "public_score", "minutes", "gpu_minutes")
DIFFERENCE_COLUMNS = ("difference", "low", "high", "p_value", "num_common_images")


class ComparedRun(Facts):
    """A run's row of the index, and its comparison with the baseline.

    ``letter`` is what charts and columns call the run: A is the baseline. ``conclusion`` is about this run: baseline,
    better, worse, inconclusive or not_comparable; ``summary`` has the reason.
    """

    letter: str
    row: Row
    epochs: tuple[Epoch, ...]
    conclusion: str
    summary: str
    paired: PairedResult | None = None


class SettingValues(Facts):
    """A setting that differs, with its value in each run; None where it is missing."""

    name: str
    values: tuple[Any, ...]


class SeveralRuns(Facts):
    """The runs, the baseline first, and the settings that are not the same in all of them."""

    runs: tuple[ComparedRun, ...]
    settings: tuple[SettingValues, ...]


def compare_several(store: Store, run_ids: Sequence[str]) -> SeveralRuns:
    """Return what differs between runs, each compared with the first.

    A run that cannot be compared, because it has no evaluation for example, has the reason.

    Raises:
        ConfigError: There are fewer than two or more than ten different runs.
        NotFoundError: One of them does not exist.
    """
    run_ids = list(dict.fromkeys(run_ids))
    if not 1 < len(run_ids) <= MAX_RUNS:
        raise ConfigError(f"Cannot compare {len(run_ids)} different runs. Choose 2 to {MAX_RUNS}.")
    readers = [open_run(store, run_id) for run_id in run_ids]
    configs = [flatten(reader.record["config"]) for reader in readers]
    names = sorted({name for config in configs for name in config})
    values = [SettingValues(name=name, values=tuple(config.get(name) for config in configs)) for name in names]
    return SeveralRuns(
        runs=tuple(_compare(readers[0], reader, letter)
                   for reader, letter in zip(readers, ascii_uppercase, strict=False)),
        settings=tuple(setting for setting in values if any(value != setting.values[0] for value in setting.values)),
    )


def _compare(baseline: RunReader, reader: RunReader, letter: str) -> ComparedRun:
    epochs: tuple[Epoch, ...] = reader.try_section("fine_tune", lambda: read_epochs(reader, "fine_tune"), EMPTY)
    paired, conclusion, summary = None, "baseline", ""
    if reader is not baseline:
        try:
            paired, conclusion, summary = paired_conclusion(baseline, reader)
        except (CarclfError, *MALFORMED_DATA_ERRORS) as error:
            conclusion, summary = "not_comparable", str(error)
    return ComparedRun(letter=letter, row=reader.index_row(), epochs=epochs, conclusion=conclusion, summary=summary,
                       paired=paired)


def several_charts(comparison: SeveralRuns) -> list[Chart]:
    """Return the curves of fine-tuning, overlaid; those of the metric only if all runs have the same."""
    metrics = {run.row["metric"] for run in comparison.runs}
    epochs = {run.letter: run.epochs for run in comparison.runs}
    charts = overlaid_curves(epochs, METRICS[min(metrics)])
    return charts if len(metrics) == 1 else charts[1:]


def several_as_csv(comparison: SeveralRuns) -> str:
    """Return a row for each run, with its difference from the baseline, and the settings that differ, as CSV."""
    header = [*COLUMNS, *DIFFERENCE_COLUMNS, *(setting.name for setting in comparison.settings)]
    return to_csv(header, (
        [*(run.row[name] for name in COLUMNS), *_difference_cells(run.paired),
         *(setting.values[number] for setting in comparison.settings)]
        for number, run in enumerate(comparison.runs)))


def _difference_cells(paired: PairedResult | None) -> tuple[float | None, ...]:
    if paired is None:
        return (None,) * len(DIFFERENCE_COLUMNS)
    return (paired.difference, *(paired.interval or (None, None)), paired.p_value, paired.num_images)
