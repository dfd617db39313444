"""Why the kernel killed a child: what it counts says whether the memory ran out."""

import re
import signal
from pathlib import Path

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
CGROUPS = Path("/sys/fs/cgroup")
MEND = ("Lower fine_tune.batch_size or the model's input size, or give the worker more memory (WORKER_MEMORY in .env, "
        "limits.memory in a pod)")


def own_cgroup() -> Path:
    """Where the kernel counts for this container, or for this user's session."""
    found = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    return CGROUPS / found.group(1) if found else CGROUPS


def out_of_memory_kills(cgroup: Path) -> int:
    """How many processes were killed there because the memory had run out; 0 where the kernel does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", (cgroup / "memory.events").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def why_killed(status: int, kills_before: int, cgroup: Path) -> str:
    """The reason in words; "" for a status that says nothing of a kill."""
    if out_of_memory_kills(cgroup) > kills_before:
        return f"out of memory: the kernel's OOM killer ended a process of the stage{_limit(cgroup)}. {MEND}"
    if status in KILLED:
        return ("killed by SIGKILL, and not by this container's own memory limit: the machine may have run out of "
                f"memory (its kernel log says so), or somebody ended it. {MEND}")
    return ""


def _limit(cgroup: Path) -> str:
    try:
        text = (cgroup / "memory.max").read_text().strip()
    except OSError:
        return ""
    return f" (the limit is {int(text) / 1e6:.0f} MB)" if text.isdecimal() else ""
