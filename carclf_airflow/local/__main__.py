"""``python -m carclf_airflow.local demo`` and ``python -m carclf_airflow.local up``."""

import argparse
import os
import signal
import sys

from carclf.errors import CarclfError, ConfigError
from carclf.redaction import redact_output
from carclf_airflow.local.airflow_server import AirflowError
from carclf_airflow.local.demo import DemoOptions, run_demo
from carclf_airflow.local.up import run_up


def main() -> int:
    """Run one of the two commands; return its exit status."""
    redact_output()
    os.umask(0o077)  # logs, database and store of every process started here are for this user only
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # A shell that starts this process in the background makes it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _run(_parser().parse_args())
    except (AirflowError, CarclfError) as error:
        print(f"carclf: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    arguments = vars(options)
    if arguments.pop("command") == "up":
        return run_up(**arguments)
    return run_demo(DemoOptions(**arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m carclf_airflow.local", description="Run Airflow on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run the DAG against a demo server")
    demo.add_argument("--data", default="", help="a folder with images in any layout; default: a rendered competition")
    demo.add_argument("--weights", default="", help="a .weights.h5 file, a store URL, imagenet or none")
    demo.add_argument("--truth", default="", help="a CSV of ids and classes that submissions are graded against")
    demo.add_argument("--holdout", type=_fraction, help="fraction of the training images to use as the test set")
    demo.add_argument("--recipe", default="", help="a recipe; default: demo, or cpu with --data")
    demo.add_argument("--experiment", default="", help="a file of an experiment's form; default: retrain")
    demo.add_argument("--exit", action="store_true", help="stop after the run and print a summary as JSON")
    up = commands.add_parser("up", help="run Airflow against the real Kaggle")
    up.add_argument("--source", default="", help="the source of the images, data.source")
    return parser


def _fraction(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(f"HOLDOUT={text} is not a number. Give a fraction such as 0.2.") from None


if __name__ == "__main__":
    sys.exit(main())
