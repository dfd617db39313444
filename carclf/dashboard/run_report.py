"""The report of a run as one file of HTML, to be mailed or archived: no script, no network; the page's own template."""

from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_view import run_view
from carclf.dashboard.templates import render_self_contained
from carclf.errors import CarclfError
from carclf.progress import log
from carclf.runs.run import Result, Run
from carclf.services.storage import Store
from carclf.stages.chain import NO_OPTIONS, StageOptions

LATE = ("evaluate", "promote", "submit", "score")  # after which there is something to archive
ASKED_OFTEN = ("submit", "score")  # while they wait nothing new is known


def run_report(store: Store, run_id: str) -> str:
    """The report, as far as the run is; ConfigError where there is no such run."""
    return render_self_contained("run.html", **run_view(run_facts(store, run_id)))


def report_key(run_id: str) -> str:
    """Where in the store the report of a run is kept."""
    return f"reports/{run_id}.html"


def run_stage_with_report(run: Run, stage: str, options: StageOptions = NO_OPTIONS) -> Result:
    """Run a stage of a run and, after a late stage, write the run's report to the store."""
    result = run.run_stage(stage, options)
    if stage in LATE and not (result.waiting and stage in ASKED_OFTEN):
        keep_report(run.store, run.run_id)
    return result


def keep_report(store: Store, run_id: str) -> None:
    """Write the report into the store; a warning where that fails, never an error: the run is what counts."""
    try:
        page = run_report(store, run_id)
        store.write(report_key(run_id), page.encode(errors="backslashreplace"))
    except (CarclfError, OSError, ValueError) as error:
        log.warning("The report of %s was not written: %s", run_id, error)
