"""Peak memory of each stage's process with 1, 4 and 16 times the data: rendered cars, repeated as links."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.open_gate import OPEN_GATE
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.stages.chain import stages_of


def repeat(source: Path, target: Path, times: int) -> None:
    """Write the competition's folder with every image several times, as hard links with other names."""
    for path in sorted(source.rglob("*.jpg")):
        folder = target / path.parent.relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            os.link(path, folder / f"{number}-{path.name}")
    for file in ("sample-submission.csv", "truth.csv"):
        table = pd.read_csv(source / file)
        copies = [table.assign(Id=[f"{number}-{name}" for name in table["Id"]]) for number in range(times)]
        pd.concat(copies).to_csv(target / file, index=False)


def peak(command: list[str], environment: dict[str, str]) -> float:
    """Run a command and return its largest resident set in MB."""
    pid = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024


def measure(folder: Path, work: Path) -> dict[str, float]:
    """Return the peak memory of each stage in MB, each in its own process as in the DAG."""
    competition = open_competition(folder, slug="cars", work=work, truth=folder / "truth.csv")
    megabytes = {}
    with DemoServer(competition, scoring_seconds=0) as server:
        environment = dict(os.environ) | {
            "CARCLF_KAGGLE_ENDPOINT": server.url, "KAGGLE_API_TOKEN": server.token, "CARCLF_CACHE": str(work / "cache"),
            "CARCLF_STORE": str(work / "store"), "CARCLF_CREATE_STORE": "true", "CARCLF_SETTINGS": "",
            "CARCLF_RECIPE": "demo",
        }
        for stage in stages_of({}):
            command = [sys.executable, "-m", "carclf", stage, "--run", "r"]
            if stage == "download":
                for name, value in {"data.source": "cars", "fine_tune.epochs": 2, **OPEN_GATE}.items():
                    command += ["--set", f"{name}={value}"]
            megabytes[stage] = peak(command, environment)
    return megabytes


def main() -> None:
    """Print MB by stage and factor, and the ratios of the last factor to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    factors = (1, 2) if parser.parse_args().quick else (1, 4, 16)
    table = {}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        render_competition(source)
        for factor in factors:
            folder, work = Path(name) / f"data{factor}", Path(name) / f"work{factor}"
            work.mkdir()
            repeat(source, folder, factor)
            table[f"{factor}x"] = measure(folder, work)
    frame = pd.DataFrame(table)
    print(frame.round(0).to_string())
    ratios = (frame.iloc[:, -1] / frame.iloc[:, 0]).round(2)
    print(json.dumps({"factor": factors[-1], "ratios": ratios.to_dict()}))


if __name__ == "__main__":
    main()
