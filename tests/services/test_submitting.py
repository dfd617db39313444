"""Submissions whose outcome is unknown: nothing is counted twice, and what did not arrive is sent again."""

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from submissions import MemoryClaim, submit_file

from carclf.demo.competition import Competition
from carclf.demo.faults import FaultKind
from carclf.demo.server import DemoServer, Fault, SubmissionEntry
from carclf.errors import CarclfError, ConfigError, ServiceError, StageWaiting
from carclf.services.kaggle.client import KaggleClient, SubmissionLimits
from carclf.services.kaggle.submitting import Attempt

FINGERPRINT = "0123456789abcdef"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SETTLED = 20 * MINUTE
ALWAYS = 9999
CREATE, LIMITS = "CreateSubmission", "GetSubmissionLimits"


@dataclass
class Scenario:
    """A file, its claim, Kaggle, and a clock for both."""

    server: DemoServer
    path: Path
    claim: MemoryClaim = field(default_factory=MemoryClaim)
    now: datetime = NOON
    max_per_day: int = 0

    def submit(self) -> int:
        kaggle = KaggleClient("demo-cars", max_attempts=2, backoff_seconds=0, read_timeout_seconds=5)
        return submit_file(kaggle, self.path, FINGERPRINT, self.claim, self.max_per_day).ref

    def wait(self) -> timedelta:
        """Submit, expect that the outcome is unknown, and return the pause until the next check."""
        with pytest.raises(StageWaiting, match=FINGERPRINT) as waiting:
            self.submit()
        assert waiting.value.until is not None
        return waiting.value.until - self.now

    def fail(self, kind: FaultKind, status: int = 500) -> None:
        """Let the next submission fail, before (drop, status) or after it is counted (drop_after, status_after)."""
        self.server.faults.append(Fault(CREATE, kind, status))

    def add_other(self, *, lag: timedelta = timedelta(0), error: str = "") -> None:
        """Let another member of the team submit a file."""
        ref, created = 1001 + len(self.server.submissions), self.now.timestamp()
        listed_at = created + lag.total_seconds()
        entry = SubmissionEntry(ref, "another model", "s.csv", "0.5", error, b"", created, listed_at)
        self.server.submissions.append(entry)

    @property
    def num_counted(self) -> int:
        return sum(FINGERPRINT in entry.description and not entry.error for entry in self.server.submissions)


@pytest.fixture
def scenario(
    kaggle_server: DemoServer, tmp_path: Path, random_bytes_competition: Competition, monkeypatch: pytest.MonkeyPatch
) -> Scenario:
    path = tmp_path / "submission.csv"
    path.write_text("Id,Category\n" + "".join(f"{name},0\n" for name in random_bytes_competition.ids))
    scenario = Scenario(kaggle_server, path)
    monkeypatch.setattr(time, "time", lambda: scenario.now.timestamp())  # noqa: PLW0108 (now changes)
    return scenario


@pytest.mark.parametrize(("kind", "status"), [("drop_after", 0), ("status_after", 429), ("status_after", 500)])
@pytest.mark.parametrize("lag", [40, 86_400])
def test_a_counted_submission_is_not_sent_again_however_late_kaggle_lists_it(
    scenario: Scenario, kind: FaultKind, status: int, lag: int
) -> None:
    scenario.server.list_lag_seconds = lag
    scenario.fail(kind, status)
    scenario.wait()
    while scenario.now < NOON + timedelta(seconds=lag) - MINUTE:
        scenario.now += scenario.wait()
    scenario.now = NOON + timedelta(seconds=lag)
    assert (scenario.submit(), len(scenario.server.submissions)) == (1001, 1)


def test_the_pauses_between_the_checks_double_up_to_two_hours(scenario: Scenario) -> None:
    scenario.server.list_lag_seconds = 10**7
    scenario.fail("drop_after")
    pauses = []
    for _ in range(11):
        pauses.append(scenario.wait() / MINUTE)
        scenario.now += pauses[-1] * MINUTE
    assert pauses == [1, 1, 2, 4, 8, 16, 32, 64, 120, 120, 120]


@pytest.mark.parametrize(("kind", "status"), [("drop", 0), ("status", 503), ("status", 429), ("html", 0), ("empty", 0)])
def test_a_submission_that_did_not_arrive_is_sent_again_when_nothing_is_counted_today(
    scenario: Scenario, kind: FaultKind, status: int
) -> None:
    scenario.fail(kind, status)
    scenario.wait()
    scenario.now += 10 * MINUTE  # the request may still be executed
    scenario.wait()
    scenario.now += 10 * MINUTE
    assert (scenario.submit(), scenario.num_counted, scenario.server.calls[CREATE]) == (1001, 1, 2)


def test_an_empty_count_of_a_new_day_proves_nothing(scenario: Scenario) -> None:
    scenario.now = NOON.replace(hour=23, minute=50)
    scenario.server.list_lag_seconds = 10**7
    scenario.fail("drop_after")
    scenario.wait()
    for minutes in (15, 30, 600):
        scenario.now += minutes * MINUTE
        scenario.wait()
    assert KaggleClient("demo-cars").submission_limits() == SubmissionLimits(0, 1, 50, limited_by_total=False)
    assert len(scenario.server.submissions) == 1


def test_a_listing_of_everything_that_is_counted_proves_that_a_submission_did_not_arrive(scenario: Scenario) -> None:
    scenario.add_other()
    scenario.now += DAY
    scenario.add_other(lag=HOUR)  # shares the count of the day
    scenario.fail("drop")
    scenario.wait()
    scenario.add_other(lag=3 * HOUR)
    for _ in range(2):
        scenario.now += HOUR
        scenario.wait()
    scenario.now += HOUR
    assert (scenario.submit(), scenario.num_counted) == (1004, 1)


def test_a_listing_that_lacks_a_counted_submission_proves_nothing(scenario: Scenario) -> None:
    scenario.add_other()
    scenario.server.list_lag_seconds = 10**7
    scenario.fail("drop_after")
    scenario.wait()
    scenario.add_other()
    for time_passed in (HOUR, DAY, 5 * DAY):
        scenario.now += time_passed
        scenario.wait()
    assert scenario.num_counted == 1


@pytest.mark.parametrize("is_pending", [True, False])
def test_a_listed_submission_that_kaggle_does_not_count_proves_nothing(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, is_pending: bool
) -> None:
    limits = SubmissionLimits(0, 0, 5, limited_by_total=False)
    monkeypatch.setattr(KaggleClient, "submission_limits", lambda _: limits)
    scenario.server.list_lag_seconds = 10**7
    scenario.server.scoring_seconds = 10**7 if is_pending else 0
    if not is_pending:
        scenario.add_other()
    scenario.fail("drop_after")
    scenario.wait()
    if is_pending:
        scenario.add_other()
    limits = SubmissionLimits(1, 1, 4, limited_by_total=False)
    scenario.now += SETTLED
    scenario.wait()
    assert scenario.num_counted == 1


@pytest.mark.parametrize("fault", [Fault(LIMITS, "status", 404, times=ALWAYS), Fault(LIMITS, "empty", times=ALWAYS)])
def test_without_kaggles_count_a_submission_is_sent_but_not_sent_again(scenario: Scenario, fault: Fault) -> None:
    scenario.server.faults.append(fault)
    scenario.fail("drop")
    scenario.wait()
    scenario.now += 5 * HOUR
    scenario.wait()
    scenario.claim.attempt = None
    assert scenario.submit() == 1001


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_rejected_submission_can_be_sent_at_once(scenario: Scenario, status: int) -> None:
    scenario.fail("status", status)
    with pytest.raises(ConfigError, match=str(status)):
        scenario.submit()
    assert scenario.submit() == 1001


@pytest.mark.parametrize("method", ["StartSubmissionUpload", CREATE])
def test_the_days_limit_is_recognized_by_kaggles_count_and_the_next_day_continues(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    submission_limits = KaggleClient.submission_limits

    def overtake(kaggle: KaggleClient) -> SubmissionLimits | None:
        limits = submission_limits(kaggle)
        if scenario.server.calls[LIMITS] == 1:
            scenario.add_other()
        return limits

    monkeypatch.setattr(KaggleClient, "submission_limits", overtake)
    scenario.server.daily_limit = 1
    scenario.server.faults.append(Fault(method, "status", 400))
    with pytest.raises(StageWaiting) as waiting:
        scenario.submit()
    assert waiting.value.until == datetime(2026, 3, 2, 0, 5, tzinfo=UTC)
    assert (scenario.server.calls[method], scenario.num_counted) == (1, 0)
    scenario.now = waiting.value.until
    assert scenario.submit() == 1002


def test_without_kaggles_count_the_days_limit_leaves_the_outcome_unknown(scenario: Scenario) -> None:
    scenario.server.faults.append(Fault(LIMITS, "status", 404, times=ALWAYS))
    scenario.server.daily_limit = 0
    assert scenario.wait() == MINUTE
    scenario.now += DAY
    scenario.wait()
    assert (scenario.server.calls[CREATE], scenario.num_counted) == (1, 0)


def test_a_used_up_total_limit_raises_config_error(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SubmissionLimits(0, 100, 0, limited_by_total=True)
    monkeypatch.setattr(KaggleClient, "submission_limits", lambda _: limits)
    with pytest.raises(ConfigError, match="100"):
        scenario.submit()
    assert CREATE not in scenario.server.calls


def test_a_submission_with_a_known_number_is_found_before_it_is_listed(scenario: Scenario) -> None:
    scenario.server.list_lag_seconds = 10**7
    assert [scenario.submit(), scenario.submit(), len(scenario.server.submissions)] == [1001, 1001, 1]


def test_a_number_of_another_server_is_sent_again_when_its_count_is_complete(scenario: Scenario) -> None:
    scenario.claim.attempt = Attempt(sent_at=NOON - DAY, num_counted=0, num_listed=0, ref=1001)
    scenario.add_other(lag=HOUR)  # has the number 1001
    scenario.wait()
    scenario.now += HOUR
    assert (scenario.submit(), scenario.num_counted) == (1002, 1)


def test_only_the_process_whose_attempt_is_in_the_claim_sends(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryClaim, "replace", lambda *_: False)
    scenario.wait()
    assert CREATE not in scenario.server.calls


def test_a_process_that_was_stopped_before_sending_does_not_send(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_slowly(claim: MemoryClaim, attempt: Attempt | None) -> bool:
        claim.attempt = attempt
        scenario.now += 2 * MINUTE
        return True

    monkeypatch.setattr(MemoryClaim, "replace", replace_slowly)
    with pytest.raises(ServiceError):
        scenario.submit()
    assert (scenario.claim.attempt, scenario.server.calls[CREATE]) == (None, 0)


def random_step(random: random.Random, scenario: Scenario) -> None:
    """Change the server, let time pass, and submit."""
    scenario.server.list_lag_seconds = random.choice((0, 40, 3000, 10**5))
    scenario.server.scoring_seconds = random.choice((0, 600))
    scenario.server.daily_limit = random.choice((2, 50))
    scenario.server.faults.clear()
    if random.random() < 0.4:
        scenario.add_other(lag=random.choice((0, 1, 40, 3000)) * MINUTE, error=random.choice(("", "", "invalid")))
    if random.random() < 0.7:
        kind = random.choice(("drop", "drop_after", "status", "status_after", "html", "empty"))
        scenario.fail(kind, random.choice((400, 429, 500)))
    if random.random() < 0.2:
        scenario.server.faults.append(Fault(LIMITS, random.choice(("empty", "status", "drop")), 404))
    try:
        scenario.submit()
    except (CarclfError, StageWaiting) as error:
        until = error.until if isinstance(error, StageWaiting) else None
        scenario.now = until or scenario.now
    scenario.now += random.choice((0, 0, 1, 20, 200)) * MINUTE


@pytest.mark.parametrize("num", [8, pytest.param(300, marks=pytest.mark.fuzz)])
def test_no_sequence_of_faults_lags_and_submitters_counts_a_submission_twice(scenario: Scenario, num: int) -> None:
    num_sent_again = 0
    for number in range(num):
        chance = random.Random(number)
        scenario.now = NOON + timedelta(minutes=chance.randrange(1440))
        scenario.claim.attempt = None
        scenario.server.submissions.clear()
        scenario.server.calls.clear()
        for _ in range(8):
            random_step(chance, scenario)
            assert scenario.num_counted <= 1, number
        num_sent_again += scenario.server.calls[CREATE] > 1
    assert num_sent_again > 0


def test_the_settings_limit_per_day_waits_for_the_next_day_and_counts_the_whole_team(scenario: Scenario) -> None:
    scenario.max_per_day = 2
    scenario.add_other()
    scenario.add_other()
    with pytest.raises(StageWaiting, match=r"submit\.max_per_day = 2") as waiting:
        scenario.submit()
    assert waiting.value.until == datetime(2026, 3, 2, 0, 5, tzinfo=UTC)
    assert scenario.num_counted == 0
    scenario.now += DAY
    assert (scenario.submit(), scenario.num_counted) == (1003, 1)


def test_the_settings_limit_per_day_needs_kaggles_count(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KaggleClient, "submission_limits", lambda _: None)
    scenario.max_per_day = 1
    scenario.add_other()
    with pytest.raises(ConfigError, match=r"submit\.max_per_day.*CARCLF_POLICY"):
        scenario.submit()
    scenario.max_per_day = 2  # not reached by all submissions together
    assert scenario.submit() == 1002
