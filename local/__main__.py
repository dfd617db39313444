"""``python -m local demo`` and ``python -m local up``."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from local.airflow import ROOT, Airflow, AirflowFailed
from local.follow import abandon, follow, trigger
from local.processes import Processes

STATE = Path(os.environ.get("CARCLF_LOCAL", ROOT / ".local"))
SERVER_SECONDS = 120.0


def demo(options: argparse.Namespace) -> int:
    """Serve a competition, run the DAG on it once, show the outcome; then stay up, or stop with --exit."""
    recipe = options.recipe or ("cars10" if options.data else "demo")
    store = STATE / f"store-{recipe}"  # each recipe has a champion and a threshold of its own
    with Processes(STATE / "logs") as processes:
        environment = _environment(store) | {"CARCLF_SCHEDULE": "none", "CARCLF_POKE_SECONDS": "2"}
        endpoint = _start_server(processes, options, environment)
        environment |= {"CARCLF_KAGGLE_ENDPOINT": endpoint, "KAGGLE_USERNAME": "demo", "KAGGLE_KEY": "demo-key",
                        "KAGGLE_CONFIG_DIR": str(STATE / "kaggle")}
        environment.pop("KAGGLE_API_TOKEN", None)
        print("Starting Airflow (half a minute)", flush=True)
        airflow = Airflow(STATE / "airflow", processes, environment)
        airflow.start()
        conf: dict[str, Any] = {"recipe": recipe, "competition": "demo-cars"}
        if options.weights:
            conf["model.weights"] = str(Path(options.weights).resolve())
        abandon(airflow)
        summary = follow(airflow, trigger(airflow, conf))
        _show(summary, store, airflow)
        if not options.exit:
            _stay()
    if options.exit:
        submission = str(store / summary["submission"]) if summary["submission"] else None
        print(json.dumps(summary | {"store": str(store), "submission": submission}))
    return 0 if summary["state"] == "success" else 1


def up(options: argparse.Namespace) -> int:
    """Airflow against the real Kaggle, with the user's own credentials."""
    store = Path(os.environ.get("CARCLF_STORE", STATE / "store"))
    environment = _environment(store)
    arguments = ["--store", environment["CARCLF_STORE"]]
    if options.competition:
        environment["CARCLF_SET"] = f"{environment.get('CARCLF_SET', '')} competition={options.competition}".strip()
        arguments += ["--set", f"competition={options.competition}"]
    if status := subprocess.run([sys.executable, "-m", "carclf", "doctor", *arguments], env=environment).returncode:
        print("Mend what is MISSING above, then run make up again.", file=sys.stderr)
        return status
    with Processes(STATE / "logs") as processes:
        airflow = Airflow(STATE / "airflow", processes, environment)
        airflow.start()
        airflow.wait_for_dag("car_retrain")
        print("The DAG car_retrain is paused: unpause it for a weekly run, or trigger it.")
        _tell_address(airflow)
        _stay()
    return 0


def _environment(store: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    url = os.environ["CARCLF_STORE"] if str(store).startswith("s3:") else str(store)
    return kept | {"CARCLF_STORE": url, "PYTHONPATH": str(ROOT)}


def _start_server(processes: Processes, options: argparse.Namespace, environment: dict[str, str]) -> str:
    command = [sys.executable, "-u", "-m", "carclf", "demo-server", "--work", str(STATE / "demo")]
    for name in ("data", "truth", "holdout"):
        if value := getattr(options, name):
            command += [f"--{name}", value]
    path = processes.start("demo-server", command, environment)
    limit = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < limit:
        if found := re.search(r"at (http://127\.0\.0\.1:\d+)", path.read_text()):
            return found[1]
        if processes.ended():
            raise AirflowFailed(f"The demo server did not start: {path.read_text()[-1000:]}")
        time.sleep(0.2)
    raise AirflowFailed(f"The demo server gave no address; look into {path}")


def _show(summary: dict[str, Any], store: Path, airflow: Airflow) -> None:
    accuracy, score = summary["val_accuracy"], summary["public_score"]
    print(f"\nrun          {summary['state']} in {summary['seconds']:.0f} s")
    if accuracy is not None:
        print(f"accuracy     {accuracy:.4f} on the validation images")
    print(f"gate         {summary['reason'] or 'not reached'}")
    print(f"public score {'none came' if score is None else score}")
    print(f"artifacts    {store}")
    _tell_address(airflow)


def _tell_address(airflow: Airflow) -> None:
    print(f"UI           {airflow.url}  (user admin, password in {airflow.home / 'passwords.json'})", flush=True)


def _stay() -> None:
    print("Ctrl-C stops everything.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("Stopping", flush=True)


def main() -> int:
    """Read the arguments and run one of the two."""
    parser = argparse.ArgumentParser(prog="local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("demo")
    for name in ("data", "weights", "truth", "holdout", "recipe"):
        one.add_argument(f"--{name}", default="")
    one.add_argument("--exit", action="store_true")
    one.set_defaults(call=demo)
    two = commands.add_parser("up")
    two.add_argument("--competition", default="")
    two.set_defaults(call=up)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
    try:
        return int(options.call(options))
    except AirflowFailed as error:
        print(f"local: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
