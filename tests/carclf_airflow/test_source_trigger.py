"""The trigger that watches the source: its child process, its errors, and its end."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from airflow_process import airflow_environment, printed_json, run_python

pytestmark = pytest.mark.integration

WATCH = """
    import asyncio, signal
    from carclf_airflow import source_trigger

    async def has_active_run(dag_id):
        return False

    async def watch():
        trigger = source_trigger.SourceTrigger(1, 0, 0, 0)
        trigger.asset_state_store = object()  # not read before the first listing has ended
        task = asyncio.ensure_future(anext(trigger.run()))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()

    source_trigger._has_active_run = has_active_run
    asyncio.run(watch())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return airflow_environment(tmp_path, TMPDIR=str(tmp_path / "tmp"))


def test_the_event_loop_does_not_wait_for_the_temporary_folder(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/a.jpg").write_bytes(b"x")
    code = """
        import asyncio, json, threading
        from contextlib import contextmanager
        from carclf_airflow import source_trigger

        is_main = []
        temporary_folder = source_trigger.temporary_folder

        @contextmanager
        def recorded_folder():
            is_main.append(threading.current_thread() is threading.main_thread())
            with temporary_folder() as folder:
                yield folder
            is_main.append(threading.current_thread() is threading.main_thread())

        source_trigger.temporary_folder = recorded_folder
        status = asyncio.run(source_trigger.read_status(("source", "status"), "download"))
        print(json.dumps([status["num_images"], is_main]))
    """
    environment |= {"CARCLF_SETTINGS": f"data.source={tmp_path / 'photos'}"}
    assert printed_json(code, environment) == [1, [False, False]]
    assert list((tmp_path / "tmp").glob("carclf-*")) == []


def test_the_trigger_continues_after_an_unexpected_error_and_logs_it_once(environment: dict[str, str]) -> None:
    code = """
        import asyncio, time
        from carclf_airflow.source_trigger import SourceTrigger

        class FailingTrigger(SourceTrigger):
            steps = [OSError(28, "No space left on device"), ValueError("Expecting value"), {"source": "x"}]

            async def _poll(self):
                step = self.steps.pop(0)
                if isinstance(step, Exception):
                    raise step
                return step

        start = time.monotonic()
        event = asyncio.run(anext(FailingTrigger(1, 0, 0, 0).run()))
        assert event.payload == {"source": "x"}
        assert time.monotonic() - start >= 2  # it sleeps after an error
    """
    done = run_python(code, environment)
    log = done.stdout + done.stderr
    assert [log.count(text) for text in ("source: unavailable", "No space left", "available again")] == [1, 2, 1]


@pytest.mark.parametrize("end", ["cancel", "shutdown", "kill"])
def test_the_child_process_ends_with_the_trigger(environment: dict[str, str], tmp_path: Path, end: str) -> None:
    """At a shutdown, the child gets SIGTERM first; that is not logged as an unavailable source."""
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        silent_server.settimeout(120)
        environment |= {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent_server.getsockname()[1]}", "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "x", "CARCLF_SETTINGS": "data.source=s3://bucket/photos",
        }
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WATCH)], env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        connection, _ = silent_server.accept()
        with connection:
            (child,) = children(process.pid)
            if end == "shutdown":
                os.kill(child, signal.SIGTERM)
                time.sleep(1)
            process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
            output, _ = process.communicate(timeout=300)
            wait_for_end(child)
    assert process.returncode == (-signal.SIGKILL if end == "kill" else 0), output
    assert "unavailable" not in output
    assert end == "kill" or list((tmp_path / "tmp").glob("carclf-*")) == []


def children(pid: int) -> list[int]:
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in paths for child in path.read_text().split()]


def wait_for_end(pid: int) -> None:
    """Wait until a process has exited; in a container, it may stay as a zombie."""
    limit = time.monotonic() + 300
    while (status := Path(f"/proc/{pid}/status")).exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < limit
        time.sleep(0.1)
