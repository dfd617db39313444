"""When a changed source starts a run: the decision, and the protocol by which one of several triggerers announces it.

It depends on the state of the source and not on its changes: a source that differs from what the last download read is
announced, whether the change was seen or happened while nobody watched.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self
from uuid import uuid4

# The keys of the state in the state store of the asset SOURCE. They are separate, so that a triggerer that observes
# does not overwrite an announcement of another one.
SEEN = "seen"
ANNOUNCEMENT = "announcement"
CLAIM_SECONDS = 3.0  # in which another triggerer that announces the same change replaces the token
MIN_SECONDS = 300.0  # between two announcements: Airflow starts a run for the first within seconds
MAX_QUIET_PERIODS = 8  # to wait for a source that never has one
MAX_POLLS = 2  # that count for the time between two observations: more is an outage, a restart or another clock


@dataclass(frozen=True)
class WatchRules:
    """A run starts after ``quiet_seconds`` without a change, with at least this many new images, and not too often."""

    poll_seconds: float
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


class StateStore(Protocol):
    """Airflow's state store of an asset."""

    async def aget(self, key: str) -> Any:
        """Return a value, or None."""

    async def aset(self, key: str, value: Any) -> None:
        """Replace a value."""


class _Stored:
    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return the stored dictionary as an object; one that is missing or damaged is as new."""
        try:
            return cls(**value)
        except TypeError:
            return cls()


@dataclass(frozen=True)
class Seen(_Stored):
    """The last observation: the contents and the time (seconds since 1970).

    ``quiet_seconds`` is how long they have not changed, and ``waited_seconds`` how long a change has waited for a run.
    """

    fingerprint: str = ""
    time: float = 0.0
    quiet_seconds: float = 0.0
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Announcement(_Stored):
    """The time of the last announcement (seconds since 1970), and its token. Empty: none yet."""

    time: float = 0.0
    token: str = ""


def observe(seen: Seen, observation: Observation, rules: WatchRules, now: float) -> Seen:
    """Return what has been seen after an observation."""
    elapsed = min(max(now - seen.time, 0.0), MAX_POLLS * rules.poll_seconds)
    is_waiting = observation.changed and not observation.has_active_run
    return Seen(
        observation.fingerprint, now,
        quiet_seconds=seen.quiet_seconds + elapsed if observation.fingerprint == seen.fingerprint else 0.0,
        waited_seconds=seen.waited_seconds + elapsed if is_waiting else 0.0,
    )


def is_due(seen: Seen, last: Announcement, observation: Observation, rules: WatchRules) -> bool:
    """Return whether to announce the contents, given the last announcement and the result of ``observe``.

    Not while a run is queued or running: its download may read the new contents, and if not, they are announced after
    it. An announcement that was lost, or whose download failed, is repeated after the minimum time.
    """
    if not observation.changed or observation.has_active_run:
        return False
    if observation.num_new_images is not None and observation.num_new_images < rules.min_new_images:
        return False
    # A time in the future, after a corrected clock, must not count for longer than one in the past.
    if abs(seen.time - last.time) < max(rules.min_seconds_between_runs, MIN_SECONDS):
        return False
    is_quiet = seen.quiet_seconds >= rules.quiet_seconds
    return is_quiet or seen.waited_seconds >= MAX_QUIET_PERIODS * rules.quiet_seconds


async def announce_if_due(
    store: StateStore, observation: Observation, rules: WatchRules, now: float,
    sleep: Callable[[float], Awaitable[None]],
) -> bool:
    """Store an observation; return whether the caller has to send the event of an announcement.

    Of several triggerers that announce at once, only the last one that stored its token sends the event, unless another
    one stalls for longer than ``CLAIM_SECONDS`` between reading and storing.
    """
    seen = observe(Seen.parse(await store.aget(SEEN)), observation, rules, now)
    await store.aset(SEEN, asdict(seen))
    if not is_due(seen, Announcement.parse(await store.aget(ANNOUNCEMENT)), observation, rules):
        return False
    announcement = Announcement(now, uuid4().hex)
    # Stored before the event: a triggerer that is killed in between loses the event, which is then repeated.
    await store.aset(ANNOUNCEMENT, asdict(announcement))
    await sleep(CLAIM_SECONDS)
    return Announcement.parse(await store.aget(ANNOUNCEMENT)) == announcement
