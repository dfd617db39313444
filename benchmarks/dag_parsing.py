"""Measure how long Airflow needs to parse the DAG folder, after its own imports, and what is imported.

python -m benchmarks.dag_parsing [--quick]

Each measurement is a process of its own: Airflow forks one for each file, with its own modules imported already.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1] / "dags"
HEAVY = ("tensorflow", "keras", "pandas")
CODE = f"""
import json, runpy, sys, time
import airflow.sdk, airflow.models.dag
files = sorted(sys.argv[1:])
started, cpu = time.perf_counter(), time.process_time()
for file in files:
    runpy.run_path(file)
print(json.dumps({{
    "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu,
    "imported": [name for name in {HEAVY} if name in sys.modules],
}}))
"""


def parse(files: list[Path]) -> dict[str, object]:
    """Return the seconds and CPU seconds of parsing the files in a new process, and the heavy packages it imports."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AIRFLOW_HOME": home}
        command = [sys.executable, "-c", CODE, *map(str, files)]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    result: dict[str, object] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Print the medians, for all files in one process and for each file in its own, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure once")
    rounds = 1 if parser.parse_args().quick else 5
    files = sorted(DAGS.glob("*.py"))
    for name, group in [("all files", files), *((file.name, [file]) for file in files)]:
        results = [parse(group) for _ in range(rounds)]
        medians = {key: round(statistics.median(float(str(result[key])) for result in results), 2)
                   for key in ("seconds", "cpu_seconds")}
        print(json.dumps({"files": name} | medians | {"imported": results[0]["imported"]}), flush=True)


if __name__ == "__main__":
    main()
