import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from carclf.errors import ConfigError, ServiceError
from carclf.experiments.plan import make_plan
from carclf.experiments.search import num_earlier_trials, parse_range, propose, report_results
from carclf.services.storage import open_store

RANGES = ["fine_tune.learning_rate=1e-4..1e-2", "fine_tune.schedule=cosine|plateau"]


def outcome(rows, dropped=(), failed=()):
    return {"rows": [{"recipe": recipe, "accuracy": accuracy} for recipe, accuracy in rows],
            "stopped_early": [{"recipe": recipe, "val_accuracy": accuracy} for recipe, accuracy in dropped],
            "failed": [{"run": run} for run in failed]}


def test_ranges_are_of_numbers_whole_numbers_or_choices():
    assert parse_range(RANGES[0]) == ("fine_tune.learning_rate", FloatDistribution(1e-4, 1e-2, log=True))
    assert parse_range("fine_tune.mixup=0..0.5") == ("fine_tune.mixup", FloatDistribution(0, 0.5))
    assert parse_range("fine_tune.epochs=3..8") == ("fine_tune.epochs", IntDistribution(3, 8))
    assert parse_range(RANGES[1]) == ("fine_tune.schedule", CategoricalDistribution(["cosine", "plateau"]))


@pytest.mark.parametrize(("text", "words"), [
    ("fine_tune.mixup", "is no range"), ("fine_tune.mixup=0.5..0.1", "is no range"), ("fine_tune.mixup=a..b",
    "is no range"), ("fine_tune.mixup=1..2..3", "is no range"), ("mixup=0..1", "is no setting that could be searched"),
])
def test_what_is_no_range_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_range(text)


def test_a_study_goes_on_from_what_an_experiment_told_it_and_never_names_two_trials_alike(tmp_path):
    store = open_store(str(tmp_path))
    first = propose("rates", RANGES, 12, store)
    assert list(first) == [f"trial-{number}" for number in range(12)]
    assert all(1e-4 <= changes["fine_tune.learning_rate"] <= 1e-2 for changes in first.values())
    # the higher the rate the better
    rates = {name: changes["fine_tune.learning_rate"] for name, changes in first.items()}
    report_results("rates", outcome(rates.items()), store)
    second = propose("rates", RANGES, 12, store)
    assert list(second) == [f"trial-{number}" for number in range(12, 24)]
    mean = {len(trials): sum(c["fine_tune.learning_rate"] for c in trials.values()) / 12 for trials in (first, second)}
    later = sum(changes["fine_tune.learning_rate"] for changes in second.values()) / 12
    assert later > sum(rates.values()) / 12, mean


def test_a_study_that_goes_on_corrects_for_what_it_tried_before():
    trials = [{f"trial-{number}": {"fine_tune.mixup": number / 10}} for number in range(6)]
    earlier = make_plan("one", "demo", ["frozen"], trials[0] | trials[1], study="rates")
    later = make_plan("two", "demo", ["frozen"], trials[4] | trials[5], study="rates")
    assert (num_earlier_trials(earlier), num_earlier_trials(later)) == (0, 4)
    assert num_earlier_trials(make_plan("one", "demo", ["trial-7 fine_tune.mixup=0.1"])) == 0


def test_what_was_stopped_or_failed_is_told_too_and_a_second_telling_changes_nothing(tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    store = open_store(str(tmp_path))
    propose("small", RANGES, 4, store)
    found = outcome([("baseline", 0.5), ("trial-0", 0.7)], dropped=[("trial-1", 0.3)], failed=["one-trial-2-s0"])
    report_results("small", found, store)
    report_results("small", outcome([("trial-0", 0.1)]), store)
    path = store.folder / "studies/small.log"
    study = optuna.load_study(study_name="small", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [(trial.state.name, trial.value) for trial in study.trials] == [
        ("COMPLETE", 0.7), ("COMPLETE", 0.3), ("FAIL", None), ("RUNNING", None)]


def test_a_study_that_another_experiment_changed_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    propose("shared", RANGES, 1, store)
    read = store.read

    def read_and_let_another_write(key):
        monkeypatch.undo()
        found = read(key)
        store.write("studies/shared.log", found.data + b"\n")
        return found

    monkeypatch.setattr(store, "read", read_and_let_another_write)
    with pytest.raises(ServiceError, match="changed by another experiment"):
        propose("shared", RANGES, 1, store)
