"""When a changed source starts a run: rules, and random histories of arrivals, restarts, outages and wrong clocks."""

import heapq
from collections.abc import Coroutine, Generator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf_airflow.source_watch import (
    ANNOUNCEMENT,
    CLAIM_SECONDS,
    MAX_QUIET_PERIODS,
    MIN_SECONDS,
    SEEN,
    Announcement,
    Observation,
    Seen,
    WatchRules,
    announce_if_due,
    is_due,
    observe,
)

POLL = 60.0
DAY = 86400.0
RULES = WatchRules(POLL, quiet_seconds=1800, min_seconds_between_runs=3600)
RUN_SECONDS = 600.0
MIN_SECONDS_BETWEEN = RULES.min_seconds_between_runs
# Long enough for the quiet period, to repeat a lost announcement, to run, and to be allowed to run again.
PAUSE = RULES.quiet_seconds + 3 * MIN_SECONDS_BETWEEN + RUN_SECONDS + 20 * POLL
NEW = Observation("b", changed=True, num_new_images=5, has_active_run=False)
QUIET = Seen("b", 1e6, quiet_seconds=1800)


def test_a_change_is_announced_after_the_quiet_period() -> None:
    seen = observe(Seen(), NEW, RULES, 1e6)
    for number in range(1, 31):
        assert not is_due(seen, Announcement(), NEW, RULES)
        seen = observe(seen, NEW, RULES, 1e6 + number * POLL)
    assert is_due(seen, Announcement(), NEW, RULES)


@pytest.mark.parametrize(
    "changes",
    [{"changed": False}, {"has_active_run": True}, {"num_new_images": 2}],
)
def test_nothing_is_announced_without_a_reason_or_during_a_run(changes: dict[str, Any]) -> None:
    assert not is_due(QUIET, Announcement(), replace(NEW, **changes), replace(RULES, min_new_images=3))


def test_an_unknown_number_of_new_images_is_enough() -> None:
    assert is_due(QUIET, Announcement(), replace(NEW, num_new_images=None), replace(RULES, min_new_images=3))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("rule", "seconds"), [(3600, 3600), (0, MIN_SECONDS)])
def test_announcements_have_a_minimum_distance(rule: float, seconds: float, direction: int) -> None:
    """Until then, one may be lost, its run not be created yet, or its download have failed. The clock may be wrong."""
    rules = replace(RULES, min_seconds_between_runs=rule)
    assert not is_due(QUIET, Announcement(QUIET.time - direction * (seconds - 1)), NEW, rules)
    assert is_due(QUIET, Announcement(QUIET.time - direction * seconds), NEW, rules)


@pytest.mark.parametrize(("jump", "counted"), [(POLL, POLL), (DAY, 2 * POLL), (-DAY, 0)])
def test_an_outage_or_a_jump_of_the_clock_counts_as_two_polls_at_most(jump: float, counted: float) -> None:
    seen = observe(Seen("b", 1e6, 100, 200), NEW, RULES, 1e6 + jump)
    assert seen == Seen("b", 1e6 + jump, 100 + counted, 200 + counted)


@pytest.mark.parametrize("damaged", [None, {}, "x", 3, {"other": 1}, [1]])
def test_a_damaged_state_is_as_new(damaged: Any) -> None:
    assert (Seen.parse(damaged), Announcement.parse(damaged)) == (Seen(), Announcement())


def test_a_state_is_stored_and_read() -> None:
    announcement = Announcement(5, "token")
    assert (Seen.parse(asdict(QUIET)), Announcement.parse(asdict(announcement))) == (QUIET, announcement)


class Delay:
    """A time in which a coroutine waits, and others continue."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


async def sleep(seconds: float) -> None:
    await Delay(seconds)


@dataclass
class SlowStore:
    """The state store as one triggerer sees it: the calls take these times, and the values are those of all."""

    values: dict[str, Any]
    delays: list[float]

    async def aget(self, key: str) -> Any:
        await self._wait()
        return self.values.get(key)

    async def aset(self, key: str, value: Any) -> None:
        await self._wait()
        self.values[key] = value

    async def _wait(self) -> None:
        self.delays.append(self.delays.pop(0))
        await Delay(self.delays[-1])


def run_together(watchers: list[Coroutine[Any, Any, bool]]) -> int:
    """Run coroutines in the order of the times for which they wait; return how many return True."""
    waiting = [(0.0, number) for number in range(len(watchers))]
    num_true = 0
    while waiting:
        now, number = heapq.heappop(waiting)
        try:
            seconds = watchers[number].send(None)
        except StopIteration as end:
            num_true += end.value
        else:
            heapq.heappush(waiting, (now + seconds, number))
    return num_true


DELAYS = st.lists(st.floats(0, CLAIM_SECONDS - 0.1), min_size=5, max_size=5)


@settings(max_examples=300)
@given(delays=st.lists(DELAYS, min_size=1, max_size=4), late=st.floats(0, 20))
def test_one_of_several_triggerers_announces(delays: list[list[float]], late: float) -> None:
    values: dict[str, Any] = {SEEN: asdict(QUIET)}
    delays[0][0] += late
    watchers = [announce_if_due(SlowStore(values, seconds), NEW, RULES, QUIET.time + POLL, sleep) for seconds in delays]
    assert run_together(watchers) == 1
    assert Announcement.parse(values[ANNOUNCEMENT]).time == QUIET.time + POLL


DELAYS_OF_WATCHERS = [[0.1, 0.2, 0.3], [0.3, 0.1, 0.2, 2.0]]  # each of the two may be the last that announces


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
    values: dict[str, Any] = field(default_factory=dict)

    def wait(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            self.time += POLL
            self._run()
            if self.is_available and self.is_watched:
                self._poll()

    def _run(self) -> None:
        """Start one run for all events; its download reads the source, or fails."""
        if self.events and self.time >= self.run_ends:
            self.events.clear()
            self.runs.append(self.images)
            self.run_ends = self.time + self.run_seconds
            if not self.download_fails:
                self.read = self.images

    def _poll(self) -> None:
        observation = Observation(str(self.images), self.images != self.read, self.images - self.read,
                                  self.time < self.run_ends)
        now = self.time + self.clock_error
        watchers = [announce_if_due(SlowStore(self.values, DELAYS_OF_WATCHERS[number]), observation, RULES, now, sleep)
                    for number in range(self.num_watchers)]
        num_events = run_together(watchers)
        assert num_events <= 1
        if num_events and not self.loses_event:
            self.events.append(self.time)
        self.loses_event = self.loses_event and not num_events


def _disturb(world: World, kind: str, seconds: float) -> None:
    """Let images arrive after one of these: a while, an outage, a restart of the triggerer, or a jump of the clock.

    The source is polled between them.
    """
    if kind == "outage":
        world.is_available = False
    if kind == "restart":
        world.is_watched = False
    world.wait(seconds if kind in ("outage", "restart") else min(seconds, RULES.quiet_seconds - 4 * POLL))
    world.is_available = world.is_watched = True
    if kind == "clock":
        world.clock_error += seconds - DAY / 2
    world.wait(POLL)
    world.images += 1


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "outage", "restart", "clock"]), st.floats(0, DAY)), min_size=1, max_size=6)
BATCHES = st.lists(st.tuples(STEPS, st.booleans(), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=120)
@given(batches=BATCHES, num_watchers=st.sampled_from([1, 2]))
def test_each_batch_starts_one_run(batches: list[tuple[Any, bool, bool]], num_watchers: int) -> None:
    """A batch is a series of arrivals, each before the quiet period after the one before has ended.

    Its event may be lost with the triggerer, its download may fail, outages and restarts last up to a day, and the
    clock may be wrong by half a day in both directions. A download that fails is repeated until it has read the batch.
    """
    world = World(num_watchers)
    for steps, loses_event, download_fails in batches:
        world.loses_event = loses_event
        world.download_fails = download_fails
        world.images += 1
        num_runs = len(world.runs)
        for kind, seconds in steps:
            _disturb(world, kind, seconds)
        assert len(world.runs) == num_runs
        world.wait(PAUSE)
        if download_fails:
            world.download_fails = False
            num_runs = len(world.runs)
            world.wait(PAUSE)
        assert world.runs[num_runs:] == [world.images]
        assert world.read == world.images


def test_a_failing_download_is_repeated_at_the_minimum_distance() -> None:
    world = World(num_watchers=2, images=1, download_fails=True)
    world.wait(DAY)
    num_runs = len(world.runs)
    assert DAY / MIN_SECONDS_BETWEEN - 3 <= num_runs <= DAY / MIN_SECONDS_BETWEEN
    world.download_fails = False
    world.wait(DAY)
    assert (world.runs[num_runs:], world.read) == ([1], 1)


def test_a_source_that_changes_forever_starts_runs() -> None:
    world = World(num_watchers=1)
    num_files = 200
    for _ in range(num_files):
        world.images += 1
        world.wait(RULES.quiet_seconds - 4 * POLL)
    hours_per_run = (MAX_QUIET_PERIODS * RULES.quiet_seconds + RUN_SECONDS) / 3600
    assert len(world.runs) >= num_files * (RULES.quiet_seconds - 4 * POLL) / 3600 / (hours_per_run + 1)
    assert world.read > 0.9 * num_files


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
