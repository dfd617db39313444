"""Out-of-memory kills: make the kernel choose the stage's process and not the worker, and explain the kill."""

import ctypes
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

KILLED_STATUSES = (-signal.SIGKILL, 128 + signal.SIGKILL)
CGROUPS = Path("/sys/fs/cgroup")
# The file names of cgroup v2 and v1.
OOM_COUNT_FILES = ("memory.events", "memory.oom_control")
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
PR_SET_PDEATHSIG = 1
OOM_SCORE = "500"  # the kernel adds 50% of all memory to the process's usage
OOM_HINT = ("Lower fine_tune.batch_size or the model's input size, or give the worker more memory (WORKER_MEMORY in "
            ".env, limits.memory in a pod)")


def find_cgroup() -> Path:
    """Return the folder of the memory cgroup of this container, or of this user's session."""
    cgroup_lines = Path("/proc/self/cgroup").read_text()
    names = dict(re.findall(r"^\d+:(memory|):/(.*)$", cgroup_lines, re.MULTILINE))
    memory = CGROUPS / "memory"
    # In a container, the path may be the host's name for the cgroup that is mounted as the root.
    candidates = (CGROUPS / names.get("", ""), CGROUPS, memory / names.get("memory", ""), memory)
    return next((path for path in candidates if any((path / name).is_file() for name in OOM_COUNT_FILES)), CGROUPS)


def count_oom_kills(cgroup: Path) -> int:
    """Return how many processes of the cgroup the OOM killer ended; 0 if the kernel does not count them."""
    match = re.search(r"^oom_kill (\d+)$", _read_first(cgroup, OOM_COUNT_FILES), re.MULTILINE)
    return int(match[1]) if match else 0


def explain_kill(status: int, kills_before: int, cgroup: Path) -> str:
    """Explain an exit status by the OOM kills since ``kills_before``; "" if the process was not killed."""
    if count_oom_kills(cgroup) > kills_before:
        limit = _read_first(cgroup, LIMIT_FILES).strip()
        note = f" (the limit is {int(limit) / 1e6:.0f} MB)" if limit.isdecimal() else ""
        return f"out of memory: the kernel's OOM killer ended a process of the stage{note}. {OOM_HINT}"
    if status in KILLED_STATUSES:
        return ("killed by SIGKILL, but not by this container's memory limit: the machine may have run out of memory "
                f"(see its kernel log), or someone killed the process. {OOM_HINT}")
    return ""


def set_parent_death_signal(parent: int) -> None:
    """Make the kernel end this process with its parent: a worker killed by SIGKILL cannot. Call in the child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent died before prctl was called
        os._exit(1)


def raise_oom_score(child: int) -> None:
    """Make the OOM killer choose the child, so that the worker survives and can report the reason.

    Call in the parent: until the child runs its program, the /proc files that it inherits from Airflow belong to root.
    """
    with suppress(OSError):  # the child has exited, or a sandbox has no such file
        Path(f"/proc/{child}/oom_score_adj").write_text(OOM_SCORE)


def _read_first(cgroup: Path, names: tuple[str, str]) -> str:
    return next(((cgroup / name).read_text() for name in names if (cgroup / name).is_file()), "")
