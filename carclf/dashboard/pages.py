"""The pages inside Airflow's UI as HTML, and the data that they ask for while they are open."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from carclf.dashboard import templates as rendering
from carclf.dashboard.experiment_view import experiment_view, training_runs_view
from carclf.dashboard.icons import ICONS
from carclf.dashboard.run_charts import class_differences
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import champion_facts, run_facts
from carclf.dashboard.run_view import live_curves, page_version, progress, run_view
from carclf.dashboard.timeline import timeline_chart
from carclf.errors import CarclfError, ConfigError, DataError
from carclf.runs.index import TRAINING, index_row, list_runs
from carclf.runs.live import read_live_progress
from carclf.runs.record import read_record
from carclf.services.storage import Store

COLUMNS = (  # of the list: a row's name, its title, whether it is a number
    ("run", "Run", False), ("val_accuracy", "Accuracy (95%)", True), ("public_score", "Public score", True),
    ("decision", "Decision", False), ("state", "State", False), ("created", "Begun (UTC)", False),
    ("recipe", "Recipe", False), ("dataset", "Data", False), ("minutes", "Minutes", True),
    ("gpu_minutes", "GPU minutes", True),
)
FILES: dict[str, tuple[Callable[[], str], str]] = {
    "site.js": (rendering.script, "text/javascript"), "site.css": (rendering.style_sheet, "text/css"),
    "vega.js": (rendering.vega, "text/javascript"),
}


def runs_page(store: Store, root: str) -> str:
    """The champion, the metrics over time, and the list of all runs."""
    champion = champion_facts(store)
    since = champion["champion"]["since"] if champion and champion["champion"] else ""
    return rendering.render_page(
        "runs.html", root, champion=champion, age=_age(since), over_time=timeline_chart(list_runs(store), champion),
        columns=COLUMNS,
    )


def run_page(store: Store, root: str, run_id: str) -> str:
    """The report of a run, as far as it is; ConfigError where there is no such run."""
    return rendering.render_page("run.html", root, **run_view(run_facts(store, run_id)))


def run_exists(store: Store, run_id: str) -> bool:
    """Whether there is such a run; ConfigError for what is no run id."""
    return read_record(store, run_id) is not None


def comparison_page(store: Store, root: str, run_a: str, run_b: str) -> str:
    """Two runs side by side; ConfigError where they cannot be compared."""
    found = compare_runs(store, run_a, run_b)
    return rendering.render_page("comparison.html", root, differences=class_differences(found["classes"]), **found)


def experiment_page(store: Store, root: str, found: Mapping[str, Any]) -> str:
    """An experiment's recipes beside the baseline, of its ``outcome.json``; DataError where that is another's."""
    return rendering.render_page("experiment.html", root, **experiment_view(found, store))


def experiment_progress_page(store: Store, root: str, name: str, members: Sequence[Mapping[str, Any]]) -> str:
    """How an experiment goes that is not compared yet: its trainings, none before it was planned."""
    return rendering.render_page("experiment_progress.html", root, experiment=name, members=training_runs_view(store, members))


def error_page(root: str, heading: str, text: str, *, awaited_run_id: str = "") -> str:
    """What went wrong, in words; it looks for the run that it ``awaited_run_id``."""
    return rendering.render_page("error.html", root, heading=heading, text=text, awaited_run_id=awaited_run_id)


def live(store: Store, run_id: str) -> dict[str, Any]:
    """What of an open page of a run changes while it runs; another ``version`` asks for the page anew."""
    record = read_record(store, run_id)
    if record is None:
        return {"version": "none", "state": "pending", "progress": [], "charts": []}
    found, row = read_live_progress(store, run_id), index_row(record)
    running = [found[stage] for stage in TRAINING if stage in found and found[stage]["state"] == "running"]
    charts = [chart for one in running for chart in live_curves(one)]
    return {
        "version": page_version(row, found), "state": row["state"], "progress": progress(found),
        "charts": [{"name": chart.name, "values": chart.values, "summary": chart.summary, "rows": chart.rows}
                   for chart in charts],
    }


def timeline(store: Store) -> dict[str, Any]:
    """The chart over time as JSON: ``spec``, ``summary``, ``columns`` and ``rows``."""
    return vars(timeline_chart(list_runs(store), champion_facts(store)))


def static_file(name: str) -> tuple[str, str] | None:
    """A file that the pages load, and its media type; None where there is none of that name."""
    if name in ICONS:
        return ICONS[name], "image/svg+xml"
    make, kind = FILES.get(name, (None, ""))
    return (make(), kind) if make else None


def describe_error(error: CarclfError) -> tuple[HTTPStatus, str]:
    """The status and the heading for what the store or a request made impossible."""
    if isinstance(error, DataError):
        return HTTPStatus.INTERNAL_SERVER_ERROR, "Something in the store is damaged"
    if not isinstance(error, ConfigError):
        return HTTPStatus.SERVICE_UNAVAILABLE, "The store does not answer"
    if error.__cause__ is not None:  # the disk's or the bucket's own refusal
        return HTTPStatus.SERVICE_UNAVAILABLE, "The store cannot be used"
    return HTTPStatus.NOT_FOUND, "Not found"


def _age(since: str) -> str:
    if not since:
        return ""
    begin = datetime.fromisoformat(since)
    seconds = (datetime.now(UTC) - (begin if begin.tzinfo else begin.replace(tzinfo=UTC))).total_seconds()
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return "a minute"
