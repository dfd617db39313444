"""When a changed source starts a run: a decision without a clock and without I/O.

It depends on the state of the source and not on its changes: a source that differs from what the last download read is
announced, whether the change was seen or happened while nobody watched.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

# The keys of the state in the state store of the asset SOURCE. They are separate, so that a triggerer that observes
# does not overwrite an announcement of another one.
SEEN = "seen"
ANNOUNCEMENT = "announcement"
MIN_SECONDS = 300.0  # between two announcements: Airflow starts a run for the first within seconds


@dataclass(frozen=True)
class WatchRules:
    """A run starts after ``quiet_seconds`` without a change, with at least this many new images, and not too often."""

    quiet_seconds: float
    min_new_images: int = 0
    min_seconds_between_runs: float = 0.0


@dataclass(frozen=True)
class Observation:
    """What is known about a source and its runs at one time.

    ``changed`` is True if the contents differ from what the last download read. ``num_new_images`` is None if it is
    unknown. ``has_active_run`` is True while a run is queued or running.
    """

    fingerprint: str
    changed: bool
    num_new_images: int | None
    has_active_run: bool


@dataclass(frozen=True)
class Seen:
    """The contents that were observed last, and since when (seconds since 1970)."""

    fingerprint: str = ""
    since: float = 0.0


@dataclass(frozen=True)
class Announcement:
    """The time of the last announcement (seconds since 1970), and its token. Empty: none yet."""

    time: float = 0.0
    token: str = ""


@dataclass(frozen=True)
class WatchState:
    """What the watcher has seen and announced."""

    seen: Seen = Seen()
    announcement: Announcement = Announcement()

    @classmethod
    def parse(cls, seen: Any, announcement: Any) -> "WatchState":
        """Return the state from stored dictionaries; a missing or damaged part is as new."""
        return cls(_parse(Seen, seen), _parse(Announcement, announcement))

    def to_dicts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the two parts as dictionaries to store."""
        return asdict(self.seen), asdict(self.announcement)


def observe(state: WatchState, observation: Observation, now: float) -> WatchState:
    """Return the state after an observation. Times in the future, after a corrected clock, become ``now``."""
    is_same = observation.fingerprint == state.seen.fingerprint
    seen = Seen(observation.fingerprint, min(state.seen.since, now) if is_same else now)
    return WatchState(seen, replace(state.announcement, time=min(state.announcement.time, now)))


def is_due(state: WatchState, observation: Observation, rules: WatchRules, now: float) -> bool:
    """Return whether to announce the contents now, given the state after ``observe``.

    Not while a run is queued or running: its download may read the new contents, and if not, they are announced after
    it. An announcement that was lost, or whose download failed, is repeated after the minimum time.
    """
    if not observation.changed or observation.has_active_run:
        return False
    if observation.num_new_images is not None and observation.num_new_images < rules.min_new_images:
        return False
    if now - state.announcement.time < max(rules.min_seconds_between_runs, MIN_SECONDS):
        return False
    return now - state.seen.since >= rules.quiet_seconds


def announce(state: WatchState, token: str, now: float) -> WatchState:
    """Return the state with an announcement."""
    return replace(state, announcement=Announcement(now, token))


def _parse(kind: type[Any], value: Any) -> Any:
    try:
        return kind(**value)
    except TypeError:  # missing, or of another version
        return kind()
