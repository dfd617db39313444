"""Why the kernel killed a child: what it counts says whether the memory ran out. And that a child is what it kills."""

import ctypes
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

KILLED_STATUSES = (-signal.SIGKILL, 128 + signal.SIGKILL)
CGROUPS = Path("/sys/fs/cgroup")
# What the second and the first version of control groups call them.
OOM_COUNT_FILES = ("memory.events", "memory.oom_control")
LIMITS = ("memory.max", "memory.limit_in_bytes")
PR_SET_PDEATHSIG = 1
OOM_SCORE = "500"  # as if it used half of the memory more than it does
OOM_HINT = ("Lower fine_tune.batch_size or the model's input size, or give the worker more memory (WORKER_MEMORY in .env, "
        "limits.memory in a pod)")


def find_cgroup() -> Path:
    """Where the kernel counts for this container, or for this user's session."""
    found = dict(re.findall(r"^\d+:(memory|):/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE))
    memory = CGROUPS / "memory"
    # In a container the path may be the host's name for what is mounted there as the root.
    places = (CGROUPS / found.get("", ""), CGROUPS, memory / found.get("memory", ""), memory)
    return next((place for place in places if any((place / name).is_file() for name in OOM_COUNT_FILES)), CGROUPS)


def count_oom_kills(cgroup: Path) -> int:
    """How many processes were killed there because the memory had run out; 0 where the kernel does not say."""
    found = re.search(r"^oom_kill (\d+)$", _text(cgroup, OOM_COUNT_FILES), re.MULTILINE)
    return int(found.group(1)) if found else 0


def explain_kill(status: int, kills_before: int, cgroup: Path) -> str:
    """The reason in words; "" for a status that says nothing of a kill."""
    if count_oom_kills(cgroup) > kills_before:
        limit = _text(cgroup, LIMITS).strip()
        told = f" (the limit is {int(limit) / 1e6:.0f} MB)" if limit.isdecimal() else ""
        return f"out of memory: the kernel's OOM killer ended a process of the stage{told}. {OOM_HINT}"
    if status in KILLED_STATUSES:
        return ("killed by SIGKILL, and not by this container's own memory limit: the machine may have run out of "
                f"memory (its kernel log says so), or somebody ended it. {OOM_HINT}")
    return ""


def set_parent_death_signal(parent: int) -> None:
    """Called in a child: a worker killed with SIGKILL can end nobody, so the kernel does it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before this was said
        os._exit(1)


def raise_oom_score(child: int) -> None:
    """Where the memory runs out the kernel takes this child: the worker, which lives on, can tell why it died.

    Called in the parent: Airflow keeps its own processes' settings, a child's until it runs, from everybody but root.
    """
    with suppress(OSError):  # it has ended already, or a sandbox has no such thing
        Path(f"/proc/{child}/oom_score_adj").write_text(OOM_SCORE)


def _text(cgroup: Path, names: tuple[str, str]) -> str:
    return next(((cgroup / name).read_text() for name in names if (cgroup / name).is_file()), "")
