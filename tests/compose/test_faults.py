"""Each run has its fault: it ends well or says why, nothing is half written, at most one submission is counted."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import count
from pathlib import Path

import pytest
from cluster import FILES, ROOT, Cluster, inside
from fault_trial import RESUMED, FaultTrial, TrialResult

from carclf.champion import read_state
from carclf.services.storage import FolderStore

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

ANONYMOUS = """
import pathlib, re
found = [path for path in map(pathlib.Path, ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"))
         if path.exists()]
print(re.search(r"^(?:anon|total_rss) (\\d+)$", found[0].read_text(), re.MULTILINE)[1])
"""
# How readily the kernel kills the stage.
STAGE = "^[^ ]*python -u -m carclf"
SCORE = f"for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '{STAGE}' && cat $p/oom_score_adj; done"
SMALL_DISK = 268_435_456  # as in small-disk.yml
HEADER = ("fault", "outcome", "seconds lost", "steps lost", "submissions")


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[TrialResult]]:
    """The rows, printed at the end."""
    rows: list[TrialResult] = []
    yield rows
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print()
        for row in (HEADER, ("---",) * 5, *map(astuple, rows)):
            cells = ["" if cell is None else f"{cell:.0f}" if isinstance(cell, float) else str(cell) for cell in row]
            print(f"| {' | '.join(cells)} |")


@pytest.fixture(scope="module")
def begin(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FaultTrial]:
    """Begin a run that no other has trained, with all workers healthy and no other run going on."""
    folder, numbers = tmp_path_factory.mktemp("copy"), count(time.time_ns() // 10**9 % 10**6)

    def new(*files: str) -> FaultTrial:
        # Compose would give a new container the old one's disk.
        own_disk = ["--renew-anon-volumes"] if files else []
        cluster.record_volumes()
        cluster.compose(*files, "up", "-d", *own_disk, "--wait", "--wait-timeout", "300")
        return FaultTrial(cluster, next(numbers), folder)

    return new


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def finish(cluster: Cluster, trial: FaultTrial, fault: str, strike: Callable[[], object] = lambda: None) -> TrialResult:
    """A run that has to end well, in spite of the fault that strikes it now."""
    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(strike)
        seconds = trial.seconds_lost()
        struck.result()
    assert cluster.finish(trial.run_id) == "success", trial.cluster.tasks(trial.run_id)
    attempts = cluster.tasks(trial.run_id)["fine_tune"]["try_number"]
    assert cluster.result(trial.run_id, "submit")["metrics"]["ref"] > 0
    return trial.row(fault, f"success, {attempts} attempt(s)", seconds, trial.steps_lost())


def test_a_killed_workers_training_goes_on_on_the_other_one(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    task = trial.wait_until_mid_training()
    killed = cluster.worker_container(task)
    docker("kill", killed)
    trial.step = max(trial.step, trial.checkpoint_step())  # it went on until that very moment
    row = finish(cluster, trial, "worker killed")
    table.append(row)
    again = cluster.tasks(trial.run_id)["fine_tune"]
    assert again["try_number"] == 2 and cluster.worker_container(again) != killed
    assert any(RESUMED.search(line) for line in cluster.log(trial.run_id, "fine_tune", 2))
    assert row.steps_lost is not None and row.steps_lost < trial.step


def test_a_restarted_broker_ends_no_run(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    (broker,) = cluster.containers("redis")
    table.append(finish(cluster, trial, "Redis restarted", lambda: docker("restart", broker)))


def test_a_restarted_database_ends_no_run(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    (database,) = cluster.containers("postgres")
    table.append(finish(cluster, trial, "PostgreSQL restarted", lambda: docker("restart", database)))


def test_a_killed_scheduler_goes_on_where_it_was(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    (scheduler,) = cluster.containers("scheduler")

    def strike() -> None:
        docker("kill", scheduler)
        docker("start", scheduler)

    table.append(finish(cluster, trial, "scheduler killed", strike))


def test_an_api_server_that_is_away_for_a_minute_ends_no_training(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    (server,) = cluster.containers("api-server")

    def strike() -> None:
        docker("stop", server)
        time.sleep(60)  # and until it is up again, which takes another one
        docker("start", server)

    table.append(row := finish(cluster, trial, "api-server away for a minute", strike))
    assert row.outcome == "success, 1 attempt(s)"


def test_a_store_that_is_away_for_a_minute_ends_no_run(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    (store,), network = cluster.containers("store"), f"{cluster.project}_work"

    def strike() -> None:
        docker("network", "disconnect", network, store)
        time.sleep(60)
        docker("network", "connect", "--alias", "store", network, store)
        trial.store = cluster.store()

    table.append(finish(cluster, trial, "S3 away for a minute", strike))


def use_up_memory(container: str) -> None:
    """Leave 100 MB, and take 300 by a process that the kernel does not choose: so it chooses the largest one."""
    used = int(inside(container, "python", "-c", ANONYMOUS))
    docker("update", "--memory", str(used + 100_000_000), "--memory-swap", str(used + 100_000_000), container)
    # Step by step: what the kernel has just killed needs a moment to give its memory back.
    code = "import time; x = [(b'1' * 10_000_000, time.sleep(0.2)) for _ in range(30)]"
    taking = f'echo -1000 > /proc/self/oom_score_adj; exec python -c "{code}"'
    docker("exec", "--privileged", "--user", "root", container, "sh", "-c", taking)


def test_out_of_memory_is_told_in_words_and_training_goes_on(cluster: Cluster, begin, table: list[TrialResult]) -> None:
    trial = begin()
    worker = cluster.worker_container(trial.wait_until_mid_training())
    assert inside(worker, "sh", "-c", SCORE, check=False) == "500\n"
    use_up_memory(worker)
    cluster.wait(lambda: cluster.tasks(trial.run_id)["fine_tune"]["try_number"] == 2, 120, "the training is killed")
    docker("update", "--memory", "4g", "--memory-swap", "4g", worker)
    said = trial.reason()
    assert re.match(r"out of memory: the kernel's OOM killer ended a process of the stage \(the limit is \d+ MB\)\. "
                    r"Lower fine_tune\.batch_size", said)
    assert said in cluster.log(trial.run_id, "fine_tune", 1)
    table.append(finish(cluster, trial, "out of memory"))


def fill_small_disk(container: str) -> None:
    """Take all room on the worker's disk: only if it is the small one, and no more than that has."""
    kind, size = inside(container, "df", "--output=fstype,size", "--block-size=1", "/scratch").split()[-2:]
    assert (kind, int(size)) == ("tmpfs", SMALL_DISK)
    inside(container, "sh", "-c", f"head -c {SMALL_DISK} /dev/zero > /scratch/fill", check=False)


def test_a_full_disk_is_told_in_words_and_the_same_run_goes_on_once_there_is_room(
    cluster: Cluster, begin, table: list[TrialResult]
) -> None:
    trial = begin("-f", "tests/compose/small-disk.yml")
    worker = cluster.worker_container(trial.wait_until_mid_training())
    fill_small_disk(worker)
    state = cluster.wait_for_task(trial.run_id, "fine_tune", {"failed"})
    assert cluster.finish(trial.run_id) == "failed" and state["max_tries"] >= state["try_number"]
    said = trial.reason()
    assert re.match(r"ConfigError: The disk is full: .* could not be written; \d+ of 268 MB are free on /scratch\.",
                    said), said
    assert not any(trial.run_id in key for key in trial.store.list_keys("models/"))
    table.append(trial.row("disk full", "failed: the disk is full"))
    inside(worker, "rm", "/scratch/fill")
    body = {"dry_run": False, "dag_run_id": trial.run_id, "only_failed": True, "task_ids": ["fine_tune"],
            "include_downstream": True}
    cluster.call("POST", "dags/car_retrain/clearTaskInstances", body)
    table.append(finish(cluster, trial, "disk full, then cleared"))


def test_a_second_run_started_meanwhile_waits_and_then_reuses_all_and_submits_nothing_twice(
    cluster: Cluster, begin, table: list[TrialResult]
) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    second = cluster.trigger(**trial.conf)
    time.sleep(10)
    assert cluster.call("GET", f"dags/car_retrain/dagRuns/{second}")["state"] == "queued"
    assert [cluster.finish(trial.run_id), cluster.finish(second)] == ["success", "success"]
    assert cluster.result(second, "fine_tune")["reused"] is True
    table.append(trial.row("second run of the DAG meanwhile", "success, success: waited, and reused all"))


def test_a_run_by_hand_at_the_same_time_on_the_same_store_disturbs_nothing(
    cluster: Cluster, begin, table: list[TrialResult]
) -> None:
    trial = begin()
    worker = cluster.worker_container(trial.wait_until_mid_training())
    (other,) = [found for found in cluster.containers("worker") if found != worker]
    pairs = [part for name, value in trial.conf.items() for part in ("--set", f"{name}={value}")]
    name = re.sub(r"\W", "-", f"by-hand-{trial.run_id}")
    by_hand = inside(other, "carclf", "run", "--recipe", "demo", "--run", name, *pairs)
    assert "score" in by_hand
    assert cluster.finish(trial.run_id) == "success"
    table.append(trial.row("the same run by hand at the same time", "success, success"))


def test_a_backup_made_while_a_run_goes_on_brings_all_of_it_back(
    cluster: Cluster, begin, tmp_path: Path, table: list[TrialResult]
) -> None:
    trial = begin()
    trial.wait_until_mid_training()
    scripts(cluster, "backup.sh", tmp_path / "backup")
    assert cluster.finish(trial.run_id) == "success"
    champion = read_state(trial.store)
    for key in list(FolderStore(tmp_path / "backup" / "store").keys()):
        trial.store.write(key, b"lost")
    started = time.monotonic()
    scripts(cluster, "restore.sh", tmp_path / "backup")
    seconds = time.monotonic() - started
    cluster.log_in()
    assert cluster.call("GET", f"dags/car_retrain/dagRuns/{trial.run_id}")["state"] == "running"
    assert cluster.finish(trial.run_id) == "success"
    trial.store = cluster.store()
    after = read_state(trial.store)
    assert champion and after and after["champion"]["model"] == champion["champion"]["model"]
    table.append(trial.row("store lost, restored from a backup of the middle", "success", seconds))


def scripts(cluster: Cluster, name: str, folder: Path) -> None:
    own = {"COMPOSE_FILE": ":".join(FILES), "COMPOSE_PROJECT_NAME": cluster.project,
           "COMPOSE_ENV_FILES": str(cluster.env_file)}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KAGGLE", "AWS", "CARCLF"))}
    done = subprocess.run([ROOT / "docker" / name, folder], cwd=ROOT, env=kept | cluster.settings | own,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
