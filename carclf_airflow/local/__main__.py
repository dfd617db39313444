"""``python -m carclf_airflow.local demo`` and ``python -m carclf_airflow.local up``."""

import argparse
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carclf.config import load_config, parse_override
from carclf.errors import CarclfError, ConfigError
from carclf.experiments.experiment_form import plan_from_form, read_form
from carclf.experiments.search import boundary_recipes
from carclf.hardware import list_gpus
from carclf_airflow.local.demo_server import start_demo_server
from carclf_airflow.local.experiment_run import experiment_name, run_experiment
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.retrain_run import fail_active_runs, follow_run, trigger_run
from carclf_airflow.local.server import REPOSITORY_ROOT, Airflow, AirflowError

STATE = Path(os.environ.get("CARCLF_LOCAL_FOLDER", REPOSITORY_ROOT / ".local"))


def demo(options: argparse.Namespace) -> int:
    """Serve a competition, run a DAG on it once, show the outcome; then stay up, or stop with --exit."""
    home = STATE / "demo"  # apart from `up`: what a demo began must never go on against the real Kaggle
    form = read_form(options.experiment) if options.experiment else None
    recipe = options.recipe or (form.recipe if form else "cars10" if options.data else "demo")
    store = home / f"store-{recipe}"  # each recipe has a champion and a threshold of its own
    # Not the conf of one run: whoever clicks Trigger in the demo's UI shall get the same.
    chosen = {"competition": "demo-cars"} | ({"model.weights": _weights(options.weights)} if options.weights else {})
    given = [*shlex.split(os.environ.get("CARCLF_SETTINGS", "")), *(f"{name}={value}" for name, value in chosen.items())]
    load_config(recipe, dict(map(parse_override, given)))  # a mistake is told before anything is started
    if form:
        form = form.model_copy(update={"recipe": recipe})
        whole = form.model_copy(update={"settings": f"{shlex.join(given)} {form.settings}"})
        plan_from_form("demo", whole, boundary_recipes(form.search, form.num_trials))
    with _exclusive_lock(home), ProcessGroup(home / "logs") as processes:
        environment = _environment(str(store)) | {
            "CARCLF_SCHEDULE": "none", "CARCLF_POKE_INTERVAL_SECONDS": "2", "CARCLF_RECIPE": recipe,
            "CARCLF_SETTINGS": shlex.join(given),
        }
        given_data = {name: getattr(options, name) for name in ("data", "truth", "holdout")}
        endpoint = start_demo_server(processes, home / "server", environment, **given_data)
        # The token goes before every other credential that the user may have.
        environment |= {"CARCLF_KAGGLE_ENDPOINT": endpoint, "KAGGLE_API_TOKEN": "demo-key"}
        print("Starting Airflow (half a minute)", flush=True)
        airflow = Airflow(home / "airflow", processes, environment)
        airflow.start()
        if form:
            summary = run_experiment(airflow, form.model_dump(), experiment_name(options.experiment))
        else:
            summary = _retrain(airflow, store)
        print(f"artifacts    {store}")
        _tell_address(airflow)
        if not options.exit:
            _wait_until_interrupted(processes)
    if options.exit:
        print(json.dumps(summary | {"store": str(store)}))
    return 0 if summary["state"] == "success" else 1


def _retrain(airflow: Airflow, store: Path) -> dict[str, Any]:
    fail_active_runs(airflow)
    summary = follow_run(airflow, trigger_run(airflow))
    _show(summary)
    return summary | {"submission": str(store / summary["submission"]) if summary["submission"] else None}


def up(options: argparse.Namespace) -> int:
    """Airflow against the real Kaggle, with the user's own credentials."""
    home = STATE / "up"
    environment = _environment(os.environ.get("CARCLF_STORE") or str(home / "store"))
    if options.competition:
        environment["CARCLF_SETTINGS"] = f"{environment.get('CARCLF_SETTINGS', '')} competition={options.competition}".strip()
    if status := subprocess.run([sys.executable, "-m", "carclf", "doctor"], env=environment).returncode:
        print("Mend what is MISSING above, then run make up again.", file=sys.stderr)
        return status
    with _exclusive_lock(home), ProcessGroup(home / "logs") as processes:
        airflow = Airflow(home / "airflow", processes, environment)
        airflow.start()
        airflow.wait_for_dag("car_retrain")
        paused = airflow.call("GET", "dags/car_retrain")["is_paused"]
        print("The DAG car_retrain is paused: unpause it for a weekly run, or trigger it." if paused
              else "The DAG car_retrain is not paused: it runs by its schedule.")
        _tell_address(airflow)
        _wait_until_interrupted(processes)
    return 0


def _environment(store: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    # LocalExecutor knows no queues: as many trainings at once as this machine can hold, however many tasks it runs.
    width = {} if "CARCLF_MAX_PARALLEL_TRAININGS" in kept else {"CARCLF_MAX_PARALLEL_TRAININGS": "1" if list_gpus() else "2"}
    return kept | width | {"CARCLF_STORE": store, "PYTHONPATH": str(REPOSITORY_ROOT)}


def _weights(text: str) -> str:
    """What the Makefile's WEIGHTS means: a name or a URL as it is, else a file that must be there."""
    if text in ("imagenet", "none") or "://" in text:
        return text
    if not (path := Path(text).expanduser()).is_file():
        raise ConfigError(f"WEIGHTS={text}: there is no such file. Give a .weights.h5, a store URL, imagenet or none.")
    return str(path.resolve())


@contextmanager
def _exclusive_lock(home: Path) -> Iterator[None]:
    """Hold the folder's lock: two Airflows on one database would run each other's tasks."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder {home} cannot be made ({error.strerror}). Set CARCLF_LOCAL_FOLDER to a "
                          "folder.") from None
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another one runs in {home}. Stop it first (Ctrl-C), or set CARCLF_LOCAL_FOLDER to another "
                              "folder.") from None
        yield


def _show(summary: dict[str, Any]) -> None:
    accuracy, score = summary["val_accuracy"], summary["public_score"]
    print(f"\nrun          {summary['state']} in {summary['seconds']:.0f} s")
    if accuracy is not None:
        print(f"accuracy     {accuracy:.4f} on the validation images")
    print(f"gate         {summary['reason'] or 'not reached'}")
    place = f" (would take place {summary['rank']} on the public leaderboard)" if summary["rank"] else ""
    print(f"public score {'none came' if score is None else score}{place}")
    if summary["warning"]:
        print(f"warning      {summary['warning']}")


def _tell_address(airflow: Airflow) -> None:
    print(f"UI           {airflow.url}  (user admin, password in {airflow.home / 'passwords.json'})", flush=True)


def _wait_until_interrupted(processes: ProcessGroup) -> None:
    """Until Ctrl-C; AirflowFailed where a part ends, without which runs would wait for ever."""
    print("Ctrl-C stops everything.", flush=True)
    try:
        while not (name := processes.ended()):
            time.sleep(1)
    except KeyboardInterrupt:
        print("Stopping", flush=True)
        return
    raise AirflowError(f"{name} has ended; look into {processes.logs}/{name}.log, and start again")


def _share(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number such as 0.2") from None


def main() -> int:
    """Read the arguments and run one of the two."""
    parser = argparse.ArgumentParser(prog="local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("demo")
    for name in ("data", "weights", "truth", "recipe", "experiment"):
        one.add_argument(f"--{name}", default="")
    one.add_argument("--holdout", type=_share)
    one.add_argument("--exit", action="store_true")
    one.set_defaults(call=demo)
    two = commands.add_parser("up")
    two.add_argument("--competition", default="")
    two.set_defaults(call=up)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
    try:
        return int(options.call(options))
    except (AirflowError, CarclfError) as error:
        print(f"local: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
