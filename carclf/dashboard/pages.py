"""The pages in Airflow's UI as HTML, and the data that they request while they are open."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from carclf.champion_history import MAX_NOTE_CHARS
from carclf.config import Policy, load_policy
from carclf.dashboard.approval_view import MAX_LISTED, approval_facts
from carclf.dashboard.champion_facts import champion_facts
from carclf.dashboard.experiment_view import experiment_view, training_run_statuses
from carclf.dashboard.icons import ICONS
from carclf.dashboard.policy_view import policy_limits
from carclf.dashboard.run_charts import class_differences
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_reader import Facts
from carclf.dashboard.run_view import ProgressLine, live_curves, page_version, progress_lines, run_view
from carclf.dashboard.several_runs import compare_several, several_charts
from carclf.dashboard.start_view import start_view
from carclf.dashboard.templates import render_page, script, style_sheet, vega_bundle
from carclf.dashboard.timeline import timeline_chart
from carclf.errors import CarclfError, ConfigError, DataError
from carclf.metrics import METRICS
from carclf.runs.index import TRAINING, Row, index_row, list_runs
from carclf.runs.live import read_live_progress
from carclf.runs.record import read_record
from carclf.services.storage import Store

COLUMNS = (  # of the list of runs: the row's key, the title, whether it is a number
    ("run", "Run", False), ("val_metric", "Metric (95%)", True), ("val_accuracy", "Accuracy", True),
    ("public_score", "Public score", True), ("decision", "Decision", False), ("state", "State", False),
    ("created", "Started (UTC)", False), ("recipe", "Recipe", False), ("dataset", "Dataset", False),
    ("minutes", "Minutes", True), ("gpu_minutes", "GPU minutes", True),
)
FILES: dict[str, tuple[Callable[[], str], str]] = {
    "site.js": (script, "text/javascript"), "site.css": (style_sheet, "text/css"),
    "vega.js": (vega_bundle, "text/javascript"),
}
UPDATED = ("name", "values", "summary", "rows")  # of a ``Chart``
UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"))


class LiveUpdate(Facts):
    """The changing parts of an active run's page. A new ``version`` means that the page must be reloaded."""

    version: str
    state: str
    progress: tuple[ProgressLine, ...] = ()
    charts: tuple[dict[str, Any], ...] = ()


def runs_page(store: Store, root: str, *, can_start: bool) -> str:
    """Render the champion, the timeline and the list of runs, which site.js fills.

    ``can_start`` shows a link to the form that starts a run.
    """
    facts = champion_facts(store)
    champion = facts.champion if facts else None
    rows = list_runs(store)
    return render_page(
        "runs.html", root, champion=champion, threshold=facts.threshold if facts else None,
        age=_age(champion.since) if champion else "", run_ids={row["run"] for row in rows},
        timeline_chart=timeline_chart(rows, facts), columns=_columns(rows), metrics=METRICS, can_start=can_start,
    )


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """Return the columns of the list: the metric by its title if all runs have the same, accuracy if it differs."""
    names = {row["metric"] for row in rows if row["val_metric"] is not None} or {"accuracy"}
    metric = METRICS[min(names)]
    direction = "" if metric.higher_is_better else ", lower is better"
    title = f"{metric.title} (95%{direction})" if len(names) == 1 else "Metric (95%)"
    columns = [column for column in COLUMNS if column[0] != "val_accuracy" or names != {"accuracy"}]
    return [(name, title if name == "val_metric" else text, numeric) for name, text, numeric in columns]


def run_page(store: Store, root: str, run_id: str, *, can_start: bool) -> str:
    """Render the report of a run, which may still be active; ConfigError if it does not exist.

    ``can_start`` shows a link to the form that starts another run.
    """
    return render_page("run.html", root, can_start=can_start, **run_view(run_facts(store, run_id)))


def run_exists(store: Store, run_id: str) -> bool:
    """Return whether the run has a record; ConfigError if the run id is invalid."""
    return read_record(store, run_id) is not None


def comparison_page(store: Store, root: str, run_a: str, run_b: str) -> str:
    """Render the comparison of two runs; ConfigError if they cannot be compared."""
    comparison = compare_runs(store, run_a, run_b)
    differences = class_differences(comparison.classes)
    return render_page("comparison.html", root, comparison=comparison, differences=differences, metrics=METRICS)


def several_runs_page(store: Store, root: str, run_ids: Sequence[str]) -> str:
    """Render the comparison of up to ten runs, the baseline first; ConfigError if they cannot be compared."""
    comparison = compare_several(store, run_ids)
    names = [run.row["run"] for run in comparison.runs]
    baselines = [_compare_query([name, *(other for other in names if other != name)]) for name in names]
    return render_page("several.html", root, comparison=comparison, charts=several_charts(comparison), metrics=METRICS,
                       query=baselines[0], baselines=baselines)


def _compare_query(run_ids: Sequence[str]) -> str:
    return urlencode([("a", run_ids[0]), *(("b", run_id) for run_id in run_ids[1:])])


def experiment_page(store: Store, root: str, outcome: Mapping[str, Any], *, has_report: bool) -> str:
    """Render an experiment's ``outcome.json``; DataError if it is malformed."""
    return render_page("experiment.html", root, has_report=has_report, **experiment_view(outcome, store))


def experiment_progress_page(store: Store, root: str, name: str, training_runs: Sequence[Mapping[str, Any]]) -> str:
    """Render the state of an experiment without outcome; ``training_runs`` is empty until the plan exists."""
    statuses = training_run_statuses(store, training_runs)
    return render_page("experiment_progress.html", root, experiment=name, training_runs=statuses, metrics=METRICS)


def start_page(store: Store, root: str, recipe: str, overrides: Sequence[str], **values: str) -> str:
    """Render the form that starts a run, with ``key=value`` overrides of the recipe and other ``values``.

    ConfigError if the policy is invalid; invalid overrides are shown in the page.
    """
    return render_page("start.html", root, **start_view(store, recipe, overrides), **values)


def approval_page(store: Store, root: str, run_id: str, policy: Policy, approver: str, **values: Any) -> str:
    """Render the page on which a person decides about a run's candidate, with other ``values``.

    ConfigError if the run does not exist.
    """
    facts = approval_facts(store, run_id, policy, approver)
    return render_page("approval.html", root, facts=facts, metric=METRICS[facts.row["metric"]],
                       max_listed=MAX_LISTED, max_note_chars=MAX_NOTE_CHARS, **values)


def policy_page(root: str) -> str:
    """Render the policy of the process that serves the pages (CARCLF_POLICY); ConfigError if it is invalid."""
    policy = load_policy()
    return render_page("policy.html", root, policy=policy, limits=policy_limits(policy))


def error_page(root: str, heading: str, text: str, *, awaited_run_id: str = "") -> str:
    """Render an error message. With ``awaited_run_id`` the page shows that run as soon as it exists."""
    return render_page("error.html", root, heading=heading, text=text, awaited_run_id=awaited_run_id)


def live(store: Store, run_id: str) -> dict[str, Any]:
    """Return a ``LiveUpdate`` of a run as JSON data."""
    record = read_record(store, run_id)
    if record is None:
        return LiveUpdate(version="none", state="not started").to_json()
    progress = read_live_progress(store, run_id)
    row = index_row(record)
    running = [progress[stage] for stage in TRAINING if stage in progress and progress[stage]["state"] == "running"]
    charts = [chart for stage in running for chart in live_curves(stage, METRICS[row["metric"]])]
    return LiveUpdate(
        version=page_version(row, progress), state=row["state"], progress=tuple(progress_lines(progress)),
        charts=tuple({name: getattr(chart, name) for name in UPDATED} for chart in charts),
    ).to_json()


def timeline(store: Store) -> dict[str, Any]:
    """Return the timeline ``Chart`` as JSON data."""
    return vars(timeline_chart(list_runs(store), champion_facts(store)))


def static_file(name: str) -> tuple[str, str] | None:
    """Return the content and media type of a file that the pages load, or None if there is no such file."""
    if name in ICONS:
        return ICONS[name], "image/svg+xml"
    read, media_type = FILES.get(name, (None, ""))
    return (read(), media_type) if read else None


def describe_error(error: CarclfError) -> tuple[HTTPStatus, str]:
    """Return the HTTP status and the heading of the page for an error."""
    if isinstance(error, DataError):
        return HTTPStatus.INTERNAL_SERVER_ERROR, "Damaged data in the store"
    if not isinstance(error, ConfigError):
        return HTTPStatus.SERVICE_UNAVAILABLE, "The store does not respond"
    if error.__cause__ is not None:  # raised because the disk or the bucket denied access
        return HTTPStatus.SERVICE_UNAVAILABLE, "The store cannot be used"
    return HTTPStatus.NOT_FOUND, "Not found"


def _age(since: str) -> str:
    if not since:
        return ""
    start = datetime.fromisoformat(since)
    seconds = (datetime.now(UTC) - (start if start.tzinfo else start.replace(tzinfo=UTC))).total_seconds()
    for size, unit in UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return "a minute"
