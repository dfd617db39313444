"""When a changed source starts a run: a decision without a clock and without I/O.

It depends on the state of the source and not on its changes: a source that differs from what the last download read is
announced, whether the change was seen or happened while nobody watched.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

# The keys of the state in the state store of the asset SOURCE. The watcher writes the first two, and the first task of
# each run the third. They are separate, so that nobody overwrites what another process has written.
SEEN = "seen"
ANNOUNCEMENT = "announcement"
ACKNOWLEDGED = "acknowledged"
LOST_SECONDS = 300.0  # without a run, after which an announcement counts as lost


@dataclass(frozen=True)
class WatchRules:
    """A run starts after ``quiet_seconds`` without a change, with at least this many new images, and not too often."""

    quiet_seconds: float
    min_new_images: int = 0
    min_seconds_between_runs: float = 0.0
    lost_seconds: float = LOST_SECONDS


@dataclass(frozen=True)
class Observation:
    """What is known about a source and its runs at one time.

    ``changed`` is True if the contents differ from what the last download read. ``num_new_images`` is None if it is
    unknown. ``has_active_run`` is True while a run is queued or running. ``acknowledged`` is the token of the last
    announcement that a run has seen.
    """

    fingerprint: str
    changed: bool
    num_new_images: int | None
    has_active_run: bool
    acknowledged: str


@dataclass(frozen=True)
class Seen:
    """The contents that were observed last, since when (seconds since 1970), and a number that each change increases.

    Contents also count as changed if a download had read them, and the last download now read something else.
    """

    fingerprint: str = ""
    changed: bool = False
    since: float = 0.0
    number: int = 0


@dataclass(frozen=True)
class Announcement:
    """The last announcement: the contents and the number of their change, its time and its token. Empty: none yet."""

    fingerprint: str = ""
    number: int = 0
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
    seen = replace(state.seen, since=min(state.seen.since, now))
    announcement = replace(state.announcement, time=min(state.announcement.time, now))
    is_unread_again = observation.changed and not seen.changed
    if observation.fingerprint != seen.fingerprint or is_unread_again:
        seen = replace(seen, since=now, number=seen.number + 1)
    return WatchState(replace(seen, fingerprint=observation.fingerprint, changed=observation.changed), announcement)


def is_due(state: WatchState, observation: Observation, rules: WatchRules, now: float) -> bool:
    """Return whether to announce the contents now, given the state after ``observe``.

    Not while a run is queued or running: its download may read the new contents, and if not, they are announced after
    it. Contents are announced once, even if their download fails, unless the announcement was lost.
    """
    if not observation.changed or observation.has_active_run or now - state.seen.since < rules.quiet_seconds:
        return False
    if observation.num_new_images is not None and observation.num_new_images < rules.min_new_images:
        return False
    announcement = state.announcement
    age = now - announcement.time
    if announcement.token and announcement.token != observation.acknowledged:  # on its way to a run, or lost
        return age >= rules.lost_seconds
    is_announced = (announcement.fingerprint == state.seen.fingerprint and announcement.number >= state.seen.number)
    return not is_announced and age >= rules.min_seconds_between_runs


def announce(state: WatchState, token: str, now: float) -> WatchState:
    """Return the state with an announcement of the contents that were seen last."""
    return replace(state, announcement=Announcement(state.seen.fingerprint, state.seen.number, now, token))


def _parse(kind: type[Any], value: Any) -> Any:
    try:
        return kind(**value)
    except TypeError:  # missing, or of another version
        return kind()
