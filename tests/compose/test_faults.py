"""Runs with one fault each: they succeed or report the reason, damage nothing, and submit at most once."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import count
from pathlib import Path

import pytest
from cluster import FILES, ROOT, Cluster, caller_environment, inside
from fault_trial import RESUMED, FaultTrial, TrialResult

from carclf.champion import read_state
from carclf.services.storage import FolderStore

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

ANONYMOUS = """
import pathlib, re
paths = [path for path in map(pathlib.Path, ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"))
         if path.exists()]
print(re.search(r"^(?:anon|total_rss) (\\d+)$", paths[0].read_text(), re.MULTILINE)[1])
"""
# Prints the OOM score of the stage.
STAGE = "^[^ ]*python -u -m carclf"
SCORE = f"for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '{STAGE}' && cat $p/oom_score_adj; done"
SMALL_DISK = 268_435_456  # as in small-disk.yml
HEADER = ("fault", "outcome", "seconds lost", "steps lost", "submissions")


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[TrialResult]]:
    """The rows, which are printed at the end."""
    rows: list[TrialResult] = []
    yield rows
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print()
        for row in (HEADER, ("---",) * 5, *map(astuple, rows)):
            cells = ["" if cell is None else f"{cell:.0f}" if isinstance(cell, float) else str(cell) for cell in row]
            print(f"| {' | '.join(cells)} |")


@pytest.fixture(scope="module")
def start_trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FaultTrial]:
    """Return a function that starts a run that reuses no model, with all workers healthy and no other run active."""
    folder = tmp_path_factory.mktemp("copy")
    numbers = count(time.time_ns() // 10**9 % 10**6)

    def new(*files: str) -> FaultTrial:
        # Without this option, Compose gives a new container the volume of the old container.
        renew = ["--renew-anon-volumes"] if files else []
        cluster.record_volumes()
        cluster.compose(*files, "up", "-d", *renew, "--wait", "--wait-timeout", "300")
        return FaultTrial(cluster, next(numbers), folder)

    return new


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def finish(cluster: Cluster, trial: FaultTrial, fault: str, cause: Callable[[], object] = lambda: None) -> TrialResult:
    """Cause a fault and return the row of the run, which must succeed."""
    with ThreadPoolExecutor(1) as pool:
        caused = pool.submit(cause)
        seconds = trial.seconds_lost()
        caused.result()
    assert cluster.finish(trial.run_id) == "success", trial.cluster.tasks(trial.run_id)
    attempts = cluster.tasks(trial.run_id)["fine_tune"]["try_number"]
    assert cluster.result(trial.run_id, "submit")["metrics"]["ref"] > 0
    return trial.row(fault, f"success, {attempts} attempt(s)", seconds, trial.steps_lost())


def test_a_killed_workers_training_resumes_on_the_other_worker(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial()
    task = trial.wait_until_mid_training()
    killed = cluster.worker_container(task)
    docker("kill", killed)
    trial.step = max(trial.step, trial.checkpoint_step())  # training continued until now
    row = finish(cluster, trial, "worker killed")
    table.append(row)
    again = cluster.tasks(trial.run_id)["fine_tune"]
    assert again["try_number"] == 2
    assert cluster.worker_container(again) != killed
    assert any(RESUMED.search(line) for line in cluster.log(trial.run_id, "fine_tune", 2))
    assert row.steps_lost is not None
    assert row.steps_lost < trial.step


def test_a_restarted_broker_does_not_end_a_run(cluster: Cluster, start_trial, table: list[TrialResult]) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    (broker,) = cluster.containers("redis")
    table.append(finish(cluster, trial, "Redis restarted", lambda: docker("restart", broker)))


def test_a_restarted_database_does_not_end_a_run(cluster: Cluster, start_trial, table: list[TrialResult]) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    (database,) = cluster.containers("postgres")
    table.append(finish(cluster, trial, "PostgreSQL restarted", lambda: docker("restart", database)))


def test_a_killed_scheduler_does_not_end_a_run(cluster: Cluster, start_trial, table: list[TrialResult]) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    (scheduler,) = cluster.containers("scheduler")

    def cause() -> None:
        docker("kill", scheduler)
        docker("start", scheduler)

    table.append(finish(cluster, trial, "scheduler killed", cause))


def test_an_api_server_outage_of_a_minute_does_not_end_a_training(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    (server,) = cluster.containers("api-server")

    def cause() -> None:
        docker("stop", server)
        time.sleep(60)  # plus the time of its start, about another minute
        docker("start", server)

    table.append(row := finish(cluster, trial, "api-server down for a minute", cause))
    assert row.outcome == "success, 1 attempt(s)"


def test_a_store_outage_of_a_minute_does_not_end_a_run(cluster: Cluster, start_trial, table: list[TrialResult]) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    (store,), network = cluster.containers("store"), f"{cluster.project}_work"

    def cause() -> None:
        docker("network", "disconnect", network, store)
        time.sleep(60)
        docker("network", "connect", "--alias", "store", network, store)
        trial.store = cluster.store()

    table.append(finish(cluster, trial, "S3 down for a minute", cause))


def use_up_memory(container: str) -> None:
    """Leave 100 MB, and use 300 MB in a process that the kernel must not kill, so that it kills the largest one."""
    used = int(inside(container, "python", "-c", ANONYMOUS))
    docker("update", "--memory", str(used + 100_000_000), "--memory-swap", str(used + 100_000_000), container)
    # In small steps: a killed process needs a moment to release its memory.
    code = "import time; x = [(b'1' * 10_000_000, time.sleep(0.2)) for _ in range(30)]"
    allocate = f'echo -1000 > /proc/self/oom_score_adj; exec python -c "{code}"'
    docker("exec", "--privileged", "--user", "root", container, "sh", "-c", allocate)


def test_out_of_memory_is_explained_and_training_resumes(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial()
    worker = cluster.worker_container(trial.wait_until_mid_training())
    assert inside(worker, "sh", "-c", SCORE, check=False) == "500\n"
    use_up_memory(worker)
    cluster.wait(lambda: cluster.tasks(trial.run_id)["fine_tune"]["try_number"] == 2, 120, "the training is killed")
    docker("update", "--memory", "4g", "--memory-swap", "4g", worker)
    error = trial.reason()
    assert re.match(r"out of memory: the kernel's OOM killer ended a process of the stage \(the limit is \d+ MB\)\. "
                    r"Lower fine_tune\.batch_size", error)
    assert error in cluster.log(trial.run_id, "fine_tune", 1)
    table.append(finish(cluster, trial, "out of memory"))


def fill_small_disk(container: str) -> None:
    """Fill the worker's scratch disk, after a check that the disk is the small one."""
    kind, size = inside(container, "df", "--output=fstype,size", "--block-size=1", "/scratch").split()[-2:]
    assert (kind, int(size)) == ("tmpfs", SMALL_DISK)
    inside(container, "sh", "-c", f"head -c {SMALL_DISK} /dev/zero > /scratch/fill", check=False)


def test_a_full_disk_is_explained_and_the_run_resumes_once_there_is_space(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial("-f", "tests/compose/small-disk.yml")
    worker = cluster.worker_container(trial.wait_until_mid_training())
    fill_small_disk(worker)
    state = cluster.wait_for_task(trial.run_id, "fine_tune", {"failed"})
    assert cluster.finish(trial.run_id) == "failed"
    assert state["max_tries"] >= state["try_number"]
    error = trial.reason()
    assert re.match(r"ConfigError: .*disk.*268 MB.*/scratch", error), error
    assert not any(trial.run_id in key for key in trial.store.list_keys("models/"))
    table.append(trial.row("disk full", "failed: the disk is full"))
    inside(worker, "rm", "/scratch/fill")
    body = {"dry_run": False, "dag_run_id": trial.run_id, "only_failed": True, "task_ids": ["fine_tune"],
            "include_downstream": True}
    cluster.call("POST", "dags/car_retrain/clearTaskInstances", body)
    table.append(finish(cluster, trial, "disk full, then cleared"))


def test_a_second_run_waits_reuses_everything_and_does_not_submit(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    second = cluster.trigger(**trial.conf)
    time.sleep(10)
    assert cluster.call("GET", f"dags/car_retrain/dagRuns/{second}")["state"] == "queued"
    assert [cluster.finish(trial.run_id), cluster.finish(second)] == ["success", "success"]
    assert cluster.result(second, "fine_tune")["reused"] is True
    table.append(trial.row("second run of the DAG meanwhile", "success, success: waited and reused everything"))


def test_the_same_run_by_hand_at_the_same_time_succeeds(
    cluster: Cluster, start_trial, table: list[TrialResult]
) -> None:
    trial = start_trial()
    worker = cluster.worker_container(trial.wait_until_mid_training())
    (other,) = [container for container in cluster.containers("worker") if container != worker]
    pairs = [part for name, value in trial.conf.items() for part in ("--set", f"{name}={value}")]
    name = re.sub(r"\W", "-", f"by-hand-{trial.run_id}")
    token = f"KAGGLE_API_TOKEN={cluster.secrets['DEMO_KEY']}"
    by_hand = inside(other, "env", token, "carclf", "run", "--recipe", "demo", "--run", name, *pairs)
    assert "score" in by_hand
    assert cluster.finish(trial.run_id) == "success"
    table.append(trial.row("the same run by hand at the same time", "success, success"))


def test_a_backup_made_during_a_run_restores_it(
    cluster: Cluster, start_trial, tmp_path: Path, table: list[TrialResult]
) -> None:
    trial = start_trial()
    trial.wait_until_mid_training()
    run_script(cluster, "backup.sh", tmp_path / "backup")
    assert cluster.finish(trial.run_id) == "success"
    champion = read_state(trial.store)
    for key in list(FolderStore(tmp_path / "backup" / "store").list_keys("")):
        trial.store.write(key, b"lost")
    started = time.monotonic()
    run_script(cluster, "restore.sh", tmp_path / "backup")
    seconds = time.monotonic() - started
    cluster.log_in()
    assert cluster.call("GET", f"dags/car_retrain/dagRuns/{trial.run_id}")["state"] == "running"
    assert cluster.finish(trial.run_id) == "success"
    trial.store = cluster.store()
    after = read_state(trial.store)
    assert champion
    assert after
    assert after["champion"]["model"] == champion["champion"]["model"]
    table.append(trial.row("store lost, restored from a backup made during training", "success", seconds))


def run_script(cluster: Cluster, name: str, folder: Path) -> None:
    stack = {"COMPOSE_FILE": ":".join(FILES), "COMPOSE_PROJECT_NAME": cluster.project,
             "COMPOSE_ENV_FILES": str(cluster.env_file)}
    environment = caller_environment() | cluster.settings | stack
    done = subprocess.run([ROOT / "docker" / name, folder], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
