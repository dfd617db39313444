"""``make demo``: a whole run, or an experiment, against a demo server that speaks Kaggle's protocol."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carclf.config import Config, deployment_settings, load_config, parse_override
from carclf.config.sources import Source, parse_source
from carclf.dataset.detection.detect import detect_in_place
from carclf.dataset.detection.submission_format import is_sample
from carclf.dataset.listing import Folder
from carclf.dataset.source_files import ArchiveFile
from carclf.errors import ConfigError
from carclf.experiments.plan_form import Form, plan_from_form, read_form
from carclf.experiments.search import boundary_recipes
from carclf.os_errors import expand_home
from carclf.services.storage import init_store
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.demo_server import start_demo_server
from carclf_airflow.local.experiment_run import experiment_name, run_experiment
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.retrain_run import run_retrain
from carclf_airflow.local.session import (
    absolute_source,
    lock_folder,
    print_url,
    stage_environment,
    state_folder,
    store_name,
    wait_until_interrupted,
)


@dataclass(frozen=True)
class DemoOptions:
    """The demo's command line; "" or None if an option is not given."""

    data: str
    weights: str
    truth: str
    holdout: float | None
    recipe: str
    experiment: str
    exit: bool


@dataclass(frozen=True)
class _Plan:
    """The demo's recipe and settings, the experiment's form (None: retrain), and whether it needs the demo server."""

    recipe: str
    settings: list[str]
    form: Form | None
    has_competition: bool


def run_demo(options: DemoOptions) -> int:
    """Run a DAG on a served competition or on a folder, print the outcome; then stay up, or stop with ``exit``."""
    home = state_folder() / "demo"  # not that of `up`: a demo's run must never continue against the real Kaggle
    plan = _plan(options)
    store = home / store_name(plan.recipe, options.data)  # each recipe and source has its own champion and threshold
    with lock_folder(home), ProcessGroup(home / "logs") as processes:
        environment = stage_environment(str(store)) | {
            "CARCLF_SCHEDULE": "none", "CARCLF_POKE_INTERVAL_SECONDS": "2", "CARCLF_RECIPE": plan.recipe,
            "CARCLF_SETTINGS": shlex.join(plan.settings),
        }
        if plan.has_competition:
            competition = {"data": options.data, "truth": options.truth, "holdout": options.holdout}
            environment |= start_demo_server(processes, home / "server", environment, competition)
        init_store(store)
        print("Starting Airflow (about 30 s)", flush=True)
        airflow = Airflow(home / "airflow", processes, environment)
        airflow.start()
        summary = _run(airflow, plan, options.experiment, store)
        print(f"artifacts    {store}")
        if not options.exit:
            print_url(airflow)
            wait_until_interrupted(processes)
    if options.exit:
        print(json.dumps(summary | {"store": str(store)}))
    return 0 if summary["state"] == "success" else 1


def _plan(options: DemoOptions) -> _Plan:
    """Return the plan; raise ConfigError for invalid settings and DataError for unusable data, before any process."""
    form = read_form(options.experiment) if options.experiment else None
    recipe = options.recipe or (form.recipe if form else "cpu" if options.data else "demo")
    # Settings of the deployment instead of the run, so that they also apply to runs triggered in the UI.
    has_competition = not options.data or bool(options.truth or options.holdout) or _has_sample(options.data)
    if "://" in options.data:
        raise ConfigError(f"DATA={options.data}: the demo reads only folders and archives of this machine. For another "
                          f"source run: make up SOURCE={options.data}")
    if options.truth and not expand_home(options.truth, "TRUTH").is_file():
        raise ConfigError(f"TRUTH={options.truth}: no such file. Give a CSV file of ids and classes.")
    if has_competition:
        _require_folder(options.data)
    source = "demo-cars" if has_competition else str(expand_home(options.data, "DATA").resolve())
    settings = deployment_settings([f"data.source={absolute_source(source)}"])
    if options.weights:
        settings.append(f"model.weights={_weights(options.weights)}")
    config = load_config(recipe, dict(map(parse_override, settings)))
    if not has_competition:
        _check_data(parse_source(source), config)
    if form:
        form = form.model_copy(update={"recipe": recipe})
        complete = form.model_copy(update={"settings": f"{shlex.join(settings)} {form.settings}"})
        plan_from_form("demo", complete, boundary_recipes(form.search, form.num_trials))
    return _Plan(recipe, settings, form, has_competition)


def _check_data(source: Source, config: Config) -> None:
    """Raise the errors of a run for a folder without archives; an archive is only opened."""
    if source.kind == "folder":
        detect_in_place(Folder(source.name), config)
    else:
        ArchiveFile(source.name)


def _has_sample(data: str) -> bool:
    """Return True if the folder has a sample submission: without one, its images are no competition."""
    return any(is_sample(path.name) for path in expand_home(data, "DATA").rglob("*.csv*"))


def _require_folder(data: str) -> None:
    if data and not (path := expand_home(data, "DATA")).is_dir():
        raise ConfigError(f"DATA={data}: {path.resolve()} is not a folder. A competition is served from a folder with "
                          "its images; without TRUTH and HOLDOUT, DATA may be an archive, too.")


def _run(airflow: Airflow, plan: _Plan, experiment: str, store: Path) -> dict[str, Any]:
    if plan.form:
        return run_experiment(airflow, plan.form.model_dump(), experiment_name(experiment))
    summary = run_retrain(airflow)
    return summary | {"submission": str(store / summary["submission"]) if summary["submission"] else None}


def _weights(text: str) -> str:
    """Return the Makefile's WEIGHTS as model.weights: a name or URL unchanged, a file as an absolute path."""
    if text in ("imagenet", "none") or "://" in text:
        return text
    if not (path := expand_home(text, "WEIGHTS")).is_file():
        raise ConfigError(f"WEIGHTS={text}: no such file. Give a .weights.h5 file, a store URL, 'imagenet' or 'none'.")
    return str(path.resolve())
