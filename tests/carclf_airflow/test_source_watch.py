"""When a changed source starts a run: rules, and random histories of arrivals, restarts, outages and wrong clocks."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf_airflow.source_watch import (
    Observation,
    Seen,
    WatchRules,
    WatchState,
    announce,
    is_due,
    observe,
)

POLL = 60.0
DAY = 86400.0
RULES = WatchRules(quiet_seconds=1800, min_seconds_between_runs=3600, lost_seconds=300)
RUN_SECONDS = 600.0
# Long enough to announce a batch whose event was lost once, to run, and to be allowed to run again.
PAUSE = RULES.quiet_seconds + RULES.min_seconds_between_runs + RULES.lost_seconds + RUN_SECONDS + 20 * POLL
NEW = Observation("b", changed=True, num_new_images=5, has_active_run=False, acknowledged="")


def observed(now: float = 0.0, state: WatchState | None = None, **changes: Any) -> tuple[WatchState, Observation]:
    observation = replace(NEW, **changes)
    return observe(state or WatchState(), observation, now), observation


def test_a_change_is_announced_once_after_the_quiet_period() -> None:
    state, observation = observed(now=1e6)
    assert not is_due(state, observation, RULES, 1e6 + 1799)
    assert is_due(state, observation, RULES, 1e6 + 1800)
    state = announce(state, "token", 1e6 + 1800)
    later = replace(observation, acknowledged="token")
    assert not is_due(observe(state, later, 1e9), later, RULES, 1e9)


@pytest.mark.parametrize(
    "changes",
    [{"changed": False}, {"has_active_run": True}, {"num_new_images": 2}],
)
def test_nothing_is_announced_without_a_reason_or_during_a_run(changes: dict[str, Any]) -> None:
    state, observation = observed(**changes)
    assert not is_due(state, observation, replace(RULES, min_new_images=3), 1e6)


def test_an_unknown_number_of_new_images_is_enough() -> None:
    state, observation = observed(num_new_images=None)
    assert is_due(state, observation, replace(RULES, min_new_images=3), 1e6)


def test_runs_have_a_minimum_distance() -> None:
    state, _ = observed(now=0)
    state = announce(state, "token", 10_000)
    state, observation = observed(10_100, state, fingerprint="c", acknowledged="token")
    assert not is_due(state, observation, RULES, 13_599)
    assert is_due(state, observation, RULES, 13_600)


def test_an_announcement_that_no_run_acknowledges_is_repeated() -> None:
    state, observation = observed()
    state = announce(state, "token", 10_000)
    assert not is_due(state, observation, RULES, 10_299)
    assert is_due(state, observation, RULES, 10_300)


def test_contents_that_return_are_announced_again() -> None:
    """Their download failed, the source was reset, and then they came back."""
    state, _ = observed()
    state = announce(state, "token", 3000)
    state, _ = observed(4000, state, fingerprint="a", changed=False, acknowledged="token")
    state, observation = observed(5000, state, acknowledged="token")
    assert is_due(state, observation, RULES, 1e6)


def test_contents_that_are_unread_again_are_announced_again() -> None:
    """As after a restored backup of the store."""
    state, _ = observed()
    state = announce(state, "token", 3000)
    state, _ = observed(4000, state, changed=False, acknowledged="token")
    state, observation = observed(5000, state, acknowledged="token")
    assert is_due(state, observation, RULES, 1e6)


def test_a_stale_write_of_another_triggerer_hides_no_change() -> None:
    state, _ = observed(0)
    announced = announce(state, "token", 3000)
    overwritten = replace(announced, seen=Seen("a", False, 0.0, announced.seen.number - 1))
    state, observation = observed(4000, overwritten, fingerprint="c", acknowledged="token")
    assert is_due(state, observation, RULES, 1e6)


def test_times_in_the_future_become_now() -> None:
    state, observation = observed(now=1e9)
    state = observe(announce(state, "token", 1e9), observation, 1000)
    assert (state.seen.since, state.announcement.time) == (1000, 1000)


@pytest.mark.parametrize("damaged", [None, {}, "x", 3, {"other": 1}, [1]])
def test_a_damaged_state_is_as_new(damaged: Any) -> None:
    assert WatchState.parse(damaged, damaged) == WatchState()


def test_a_state_is_stored_and_read() -> None:
    state = announce(observed(5)[0], "token", 9)
    assert WatchState.parse(*state.to_dicts()) == state


@dataclass
class World:
    """A source, its watchers, Airflow and its clock, in steps of a poll. Contents are the number of images."""

    num_watchers: int
    run_seconds: float = RUN_SECONDS
    images: int = 0
    read: int = 0
    time: float = 1e6
    clock_error: float = 0.0
    is_available: bool = True
    is_watched: bool = True
    loses_event: bool = False
    download_fails: bool = False
    run_ends: float = 0.0
    events: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    acknowledged: str = ""
    stored: WatchState = field(default_factory=WatchState)

    def wait(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            self.time += POLL
            self._run()
            if self.is_available and self.is_watched:
                self._poll()

    def _run(self) -> None:
        """Start one run for all events; it acknowledges, then reads the source."""
        if self.events and self.time >= self.run_ends:
            self.events.clear()
            self.runs.append(self.images)
            self.run_ends = self.time + self.run_seconds
            self.acknowledged = self.stored.announcement.token
            if not self.download_fails:
                self.read = self.images

    def _poll(self) -> None:
        """All watchers decide at the same time; the last one that writes its announcement sends the event."""
        now = self.time + self.clock_error
        observation = Observation(str(self.images), self.images != self.read, self.images - self.read,
                                  self.time < self.run_ends, self.acknowledged)
        state = observe(self.stored, observation, now)
        for number in range(self.num_watchers):
            self.stored = state
            if is_due(state, observation, RULES, now):
                self.stored = announce(state, f"{self.time} {number}", now)
        if self.stored.announcement != state.announcement:
            if not self.loses_event:
                self.events.append(self.time)
            self.loses_event = False


def _disturb(world: World, kind: str, seconds: float) -> None:
    """Let images arrive within one of these: a while, an outage, a restart of the triggerer, or a jump of the clock."""
    if kind == "outage":
        world.is_available = False
    if kind == "restart":
        world.is_watched = False
    world.wait(seconds if kind in ("outage", "restart") else min(seconds, RULES.quiet_seconds - 2 * POLL))
    if kind == "clock":
        world.clock_error += seconds - DAY / 2
    world.images += 1
    world.is_available = world.is_watched = True


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "outage", "restart", "clock"]), st.floats(0, DAY)), min_size=1, max_size=6)
BATCHES = st.lists(st.tuples(STEPS, st.booleans(), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=200)
@given(batches=BATCHES, num_watchers=st.sampled_from([1, 2]))
def test_each_batch_starts_one_run(batches: list[tuple[Any, bool, bool]], num_watchers: int) -> None:
    """A batch is a series of arrivals, each before the quiet period after the one before has ended.

    Its event may be lost with the triggerer, its download may fail, outages and restarts last up to a day, and the
    clock may be wrong by half a day in both directions.
    """
    world = World(num_watchers)
    for steps, world.loses_event, world.download_fails in batches:
        world.images += 1
        for kind, seconds in steps:
            _disturb(world, kind, seconds)
        num_images = world.images
        world.wait(PAUSE)
        assert world.runs[-1:] == [num_images]
    assert len(world.runs) == len(batches)
    assert world.download_fails or world.read == world.images


def test_ten_thousand_files_within_an_hour_start_one_run() -> None:
    world = World(num_watchers=2)
    for _ in range(60):
        world.images += 167
        world.wait(POLL)
    assert world.runs == []
    world.wait(DAY)
    assert world.runs == [60 * 167]


def test_images_that_arrive_during_a_long_run_start_one_run_after_it() -> None:
    world = World(num_watchers=1, run_seconds=DAY, images=1)
    world.wait(RULES.quiet_seconds + 5 * POLL)
    assert world.runs == [1]
    world.images = 2
    world.wait(DAY / 2)
    assert (world.runs, world.events) == ([1], [])
    world.wait(DAY)
    assert world.runs == [1, 2]
