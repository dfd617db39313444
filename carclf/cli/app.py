"""Assemble the command line, and turn errors into one line and an exit status."""

import logging
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from carclf.artifacts import cache_folder
from carclf.cli.champions import champion_app
from carclf.cli.doctor import doctor
from carclf.cli.ensemble import ensemble
from carclf.cli.experiment import experiment_app
from carclf.cli.export import export
from carclf.cli.find import find_batch_size, find_lr
from carclf.cli.init import init
from carclf.cli.inspect_source import inspect
from carclf.cli.label_fixes import label_fixes
from carclf.cli.predict import predict
from carclf.cli.predictions import predictions_app
from carclf.cli.publish import publish_command
from carclf.cli.reevaluate import reevaluate
from carclf.cli.reference import recipes, settings
from carclf.cli.runs import runs_app
from carclf.cli.serve_demo import demo_server
from carclf.cli.source import source_app
from carclf.cli.stages import SKIP_REMAINING, add_stage_commands, run_all
from carclf.cli.startup_messages import hide_startup_messages
from carclf.cli.store import store_app
from carclf.config import apply_project_file
from carclf.errors import CarclfError, ConfigError, DataError, NotFoundError, ServiceError
from carclf.formatting import printable
from carclf.os_errors import os_error_message
from carclf.progress import LogFormatter
from carclf.redaction import redact_output

COMPLETION_VARIABLE = "_CARCLF_COMPLETE"  # typer's: set while a shell asks for completions
# docs/settings.md describes them, also what Airflow does.
EXIT_STATUSES = {
    0: "done", 1: "unexpected error", 2: "unknown command or option",
    DataError.exit_status: "the data or the model are not good enough",
    NotFoundError.exit_status: "the store, or what the command needs from it, does not exist",
    ServiceError.exit_status: "temporary failure, or waiting",
    ConfigError.exit_status: "wrong setting, credential or permission",
    SKIP_REMAINING: "done, and the following stages have nothing to do",
}
app = typer.Typer(
    help="Retrain an image classifier and compete with it on Kaggle.", no_args_is_help=True,
    epilog=f"Exit statuses: {'; '.join(f'{status} {text}' for status, text in EXIT_STATUSES.items())}.",
    pretty_exceptions_enable=False,
)
app.command("init")(init)
app.command("settings")(settings)
app.command("recipes")(recipes)
app.command("doctor")(doctor)
app.command("inspect")(inspect)
app.command("run")(run_all)
add_stage_commands(app)
app.command("find-lr")(find_lr)
app.command("find-batch-size")(find_batch_size)
app.command("label-fixes")(label_fixes)
app.command("predict")(predict)
app.command("export")(export)
app.command("publish")(publish_command)
app.command("ensemble")(ensemble)
app.command("demo-server")(demo_server)
champion_app.command("reevaluate")(reevaluate)
app.add_typer(champion_app, name="champion")
app.add_typer(experiment_app, name="experiment")
app.add_typer(predictions_app, name="predictions")
app.add_typer(runs_app, name="runs")
app.add_typer(source_app, name="source")
app.add_typer(store_app, name="store")


def _print_version(value: bool) -> None:
    if value:
        print(f"carclf {version('carclf')}")
        raise typer.Exit


@app.callback()
def _prepare(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show the startup messages of TensorFlow and CUDA.")
    ] = False,
) -> None:
    """Prepare the process for a command."""
    if not verbose:
        hide_startup_messages()
    if context.invoked_subcommand != "init":
        apply_project_file(Path.cwd())


def main() -> None:
    """Run a command. On an error, print one line to stderr and exit with the status that the DAG's task expects."""
    redact_output()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("carclf").setLevel(logging.INFO)
    try:
        if COMPLETION_VARIABLE in os.environ:  # no command runs
            apply_project_file(Path.cwd())
        app(standalone_mode=True)
    except CarclfError as error:
        _exit_with(error)
    except Exception as error:
        folders = []
        with suppress(ConfigError):
            folders.append(cache_folder())
        if (text := os_error_message(error, folders)) is None:
            raise
        _exit_with(ConfigError(text))


def _exit_with(error: CarclfError) -> NoReturn:
    print(f"carclf: {type(error).__name__}: {printable(str(error))}", file=sys.stderr, flush=True)
    raise SystemExit(error.exit_status) from None
