"""The command line: one command per stage, plus run, doctor and demo-server."""

import json
import logging
import os
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from carclf import config as configuration
from carclf.artifacts import cache_folder
from carclf.cli.champions import champion_app
from carclf.cli.experiment import experiment_app
from carclf.cli.models import models_app
from carclf.cli.options import RecipeOption, ResultOption, RunOption, SetOption, StoreOption, validate_parent_folder
from carclf.cli.runs import runs_app
from carclf.cli.store import store_app
from carclf.dashboard.run_report import run_stage_with_report
from carclf.errors import CarclfError, ConfigError, ServiceError
from carclf.formatting import printable
from carclf.progress import LogLines
from carclf.runs.run import Result, Run, find_setting
from carclf.services.storage import disk_full_message, format_command, open_store
from carclf.stages.chain import STAGES, StageOptions

SKIP_WHAT_FOLLOWS = 99

app = typer.Typer(
    help="Retrain a car classifier and compete with it on Kaggle.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)
app.add_typer(champion_app, name="champion")
app.add_typer(experiment_app, name="experiment")
app.add_typer(runs_app, name="runs")
app.add_typer(store_app, name="store")
app.add_typer(models_app)


def _finish(result: Result, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(asdict(result)))
    if result.skip_reason:
        raise typer.Exit(SKIP_WHAT_FOLLOWS)
    if result.waiting:  # its reason is in the log already
        raise typer.Exit(ServiceError.exit_status)


def _configuration(recipe: str, overrides: list[str]) -> configuration.Config:
    """The recipe with the deployment's settings (CARCLF_SETTINGS) and then those of the command line."""
    given = configuration.deployment_settings(overrides)
    return configuration.load_config(recipe, dict(configuration.parse_override(text) for text in given))


def _new_run(store: str, run: str, recipe: str, overrides: list[str]) -> Run:
    return Run.start_or_resume(run, open_store(store), recipe, _configuration(recipe, overrides))


@app.command("download", help=(sys.modules["carclf.stages.download"].__doc__ or "").strip())
def _download(
    run: RunOption, store: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = [],
    result: ResultOption = None,
) -> None:
    _finish(run_stage_with_report(_new_run(store, run, recipe, set_), "download"), result)


def _add_stage(stage: str) -> None:
    @app.command(stage, help=(sys.modules[f"carclf.stages.{stage}"].__doc__ or "").strip())
    def _command(run: RunOption, store: StoreOption = "store", result: ResultOption = None) -> None:
        _finish(run_stage_with_report(Run.load(run, open_store(store)), stage), result)


for _stage in list(STAGES)[1:]:
    if _stage != "promote":
        _add_stage(_stage)


@app.command("promote", help=(sys.modules["carclf.stages.promote"].__doc__ or "").strip())
def _promote(
    run: RunOption, store: StoreOption = "store", result: ResultOption = None,
    approved_by: Annotated[str, typer.Option("--approved-by", metavar="NAME", help="Who agreed to it.")] = "",
) -> None:
    current = Run.load(run, open_store(store))
    _finish(run_stage_with_report(current, "promote", StageOptions(approved_by.strip())), result)


@app.command("run")
def _run(
    store: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = [],
    run: Annotated[str, typer.Option("--run", help="The run's id; by default the time.")] = "",
) -> None:
    """Run every stage in order, without Airflow."""
    name = run or f"{recipe}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    current = _new_run(store, name, recipe, set_)
    for stage in STAGES:
        result = _wait(current, stage)
        if result.waiting:
            print(f"{result.summary}\nThen the rest of the stages: "
                  f"{format_command(current.store, f'STAGE --run {name}')}, from {stage} on")
            raise typer.Exit(ServiceError.exit_status)
        print(result.format_line(), flush=True)
        if result.metrics.get("public_score") == "":
            print("No public score came: the competition gives none.")
        if result.skip_reason:
            print(f"{result.skip_reason}; what follows is skipped")
            break


def _wait(run: Run, stage: str) -> Result:
    limit = time.monotonic() + run.config.score.timeout_seconds
    while (result := run_stage_with_report(run, stage)).waiting:
        if result.until or stage == "promote":  # for another day, or for a person: no command waits for that
            return result
        if time.monotonic() > limit:
            raise ServiceError(f"{result.summary} after {run.config.score.timeout_seconds} s. Ask again: "
                               f"{format_command(run.store, f'{stage} --run {run.run_id}')}")
        time.sleep(run.config.score.poll_seconds)
    return result


def _find(name: str, run: str, store: str, plot: Path) -> None:
    from carclf.training.tuning import plot_trials

    tried, chosen = find_setting(Run.load(run, open_store(store)), name)
    print(tried.to_string(index=False))
    plot_trials(tried, chosen, plot)
    if name == "batch_size":
        print(f"the largest that fits into memory, of those that can be set: {tried['batch_size'].max()}")
    print(f"fine_tune.{name}={chosen:.3g}   (the curve is in {plot})")


PlotOption = Annotated[Path, typer.Option("--plot", help="Where the curve is drawn.", callback=validate_parent_folder)]


@app.command("find-lr")
def _find_lr(run: RunOption, store: StoreOption = "store", plot: PlotOption = Path("find-lr.png")) -> None:
    """Find fine-tuning's learning rate by a range test, after a run's train_head."""
    _find("learning_rate", run, store, plot)


@app.command("find-batch-size")
def _find_batch_size(
    run: RunOption, store: StoreOption = "store", plot: PlotOption = Path("find-batch-size.png")
) -> None:
    """Find fine-tuning's fastest batch size that fits into memory, after a run's train_head."""
    _find("batch_size", run, store, plot)


@app.command("label-fixes")
def _label_fixes(
    run: Annotated[str, typer.Option("--run", help="The run whose suspects are meant.")] = "",
    store: StoreOption = "store",
    top: Annotated[int, typer.Option(min=0, help="Write fixes of the first N suspects.")] = 0,
    id_: Annotated[list[str], typer.Option("--id", help="Write the fix of this suspect. May be repeated.")] = [],
    drop: Annotated[bool, typer.Option(help="Leave these pictures out instead of relabelling them.")] = False,
    file: Annotated[Optional[Path], typer.Option(help="Your own CSV: id,action,label[,sha256].")] = None,
    replace: Annotated[bool, typer.Option(help="Also change the lines that are there for these pictures.")] = False,
    show: Annotated[bool, typer.Option(help="Only list the suspects.")] = False,
) -> None:
    """List suspected labels, or write fixes of some into the store's label_fixes.csv: the next run applies them."""
    from carclf.cli import label_fixes as fixing

    place = open_store(store)
    wanted = fixing.read_fixes(file) if file else []
    if not run and (show or not file):
        raise ConfigError("Give --run with the run whose suspects are meant, or --file with your own fixes.")
    if run:
        suspects = fixing.read_suspects(Run.load(run, place))
        if show or not (top or id_ or file):
            print(*fixing.suspect_lines(suspects, top or 20), sep="\n")
            return
        wanted += fixing.select_fixes(suspects, top, id_, drop=drop)
    index = fixing.read_index(Run.load(run, place)) if run else None
    print(*fixing.result_lines(place, *fixing.merge_fixes(place, wanted, replace=replace, index=index)), sep="\n")


@app.command("doctor")
def _doctor(store: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = []) -> None:
    """Check what a run needs, before anything is spent; exit status 78 where something is missing."""
    from carclf.cli.doctor import run_checks

    findings = run_checks(_configuration(recipe, set_), store)
    for finding in findings:
        mark = {True: "ok", False: "MISSING", None: "warning"}[finding.passed]
        print(f"{finding.name:<10}{mark:<10}{finding.text}")
    if any(finding.passed is False for finding in findings):
        raise typer.Exit(78)


@app.command("demo-server")
def _demo_server(
    data: Annotated[Optional[Path], typer.Option(help="A folder in the competition's layout.")] = None,
    truth: Annotated[Optional[Path], typer.Option(help="CSV Id,Category to grade against.")] = None,
    holdout: Annotated[Optional[float], typer.Option(help="Share of the training images to test on.")] = None,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Where it listens, as its clients call it.")] = "127.0.0.1",
    slug: Annotated[str, typer.Option(help="The competition's name.")] = "demo-cars",
    work: Annotated[Optional[Path], typer.Option(help="Where the archive is built.")] = None,
    daily_limit: Annotated[
        int, typer.Option(min=0, envvar="CARCLF_DEMO_DAILY_LIMIT", help="Submissions that it takes a day.")
    ] = 1000,
) -> None:
    """Serve a car competition by Kaggle's protocol, on a loopback port unless told otherwise."""
    from carclf.demo.serve import serve

    where = work or Path(tempfile.mkdtemp(prefix="carclf-demo-"))
    serve(data, truth, holdout, (host, port), slug, where, daily_limit)


def main() -> None:
    """Run a command; errors are one line on stderr and the exit status that Airflow's task reads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(LogLines())
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    logging.getLogger("carclf").setLevel(logging.INFO)
    try:
        app(standalone_mode=True)
    except CarclfError as error:
        _end(error)
    except Exception as error:
        if (text := disk_full_message(error, [cache_folder()])) is None:
            raise
        _end(ConfigError(text))


def _end(error: CarclfError) -> NoReturn:
    print(f"carclf: {type(error).__name__}: {printable(str(error))}", file=sys.stderr, flush=True)
    raise SystemExit(error.exit_status) from None


if __name__ == "__main__":
    main()
