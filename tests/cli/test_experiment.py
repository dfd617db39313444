"""An experiment of real stages on a few rendered cars, by its commands."""

import json

import pytest
from small_runs import SMALL
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.errors import ConfigError, QualityError
from carclf.experiments.plan import read_plan
from carclf.experiments.trainings import minutes_spent
from carclf.services.storage import open_store

SETTINGS = SMALL | {"fine_tune.epochs": 2, "fine_tune.patience": 5}


def carclf(store, *arguments):
    answer = CliRunner().invoke(app, ["experiment", *arguments, "--store", store.url])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def plan(store, name, *arguments):
    given = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return carclf(store, "plan", "--name", name, "--recipe", "demo", *given, *arguments)


@pytest.fixture(scope="module")
def compared(cars, tmp_path_factory):
    """The store of an experiment that raced, was compared, and whose last recipe's training failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_KAGGLE_ENDPOINT", cars[1].url)
        patch.setenv("KAGGLE_API_TOKEN", "demo-key")
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        store = open_store(str(tmp_path_factory.mktemp("store")))
        plan(store, "one", "--try", "frozen", "--try", "single-view", "--try", "ensemble",
             "--try", 'lost model.weights="champion"', "--try", "mixup", "--rungs", "1", "--keep-fraction", "0.7")
        carclf(store, "run", "--name", "one")
    return store


@pytest.mark.acceptance  # with real trainings
def test_the_comparison_has_a_row_for_each_that_finished_and_says_why_others_did_not(compared):
    found = json.loads(compared.read("experiments/one/outcome.json").data)
    assert [row["recipe"] for row in found["rows"]][:3] == ["baseline", "frozen", "single-view"]
    assert found["rows"][-1]["recipe"] == "ensemble"
    assert [row["run"] for row in found["failed"]] == ["one-lost-s0", "one-lost-s1"]
    assert all("the store has none to go on from" in row["error"] for row in found["failed"])
    assert found["not_trained"] == []
    assert found["num_images"] > 20
    assert found["num_comparisons"] == len(found["rows"]) - 1 + len(found["stopped_early"])
    assert found["winner"] == ""  # so few images tell nothing apart
    for row in found["rows"][1:]:
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["summary"].startswith(("no difference", "better", "worse"))


@pytest.mark.acceptance  # with real trainings
def test_recipes_that_share_a_training_cost_the_same_and_have_one_model(compared):
    runs = {name: json.loads(compared.read(f"runs/one-{name}-s0.json").data)["stages"]
            for name in ("baseline", "single-view", "frozen")}
    assert runs["baseline"]["fine_tune"]["key"] == runs["single-view"]["fine_tune"]["key"]
    assert runs["baseline"]["evaluate"]["key"] != runs["single-view"]["evaluate"]["key"]
    assert len({stages["split"]["key"] for stages in runs.values()}) == 1
    rows = {row["recipe"]: row for row in json.loads(compared.read("experiments/one/outcome.json").data)["rows"]}
    assert rows["single-view"]["minutes"] == rows["baseline"]["minutes"]
    assert rows["ensemble"]["cost"] == pytest.approx(2)
    assert rows["frozen"]["cost"] < 1


@pytest.mark.acceptance  # with real trainings
def test_the_row_of_an_ensemble_is_what_its_command_makes(compared):
    row = json.loads(compared.read("experiments/one/outcome.json").data)["rows"][-1]
    answer = CliRunner().invoke(app, [*row["command"].split()[1:], "--store", compared.url, "--name", "joined"])
    record = json.loads(compared.read("runs/joined.json").data)
    assert record["stages"]["evaluate"]["metrics"]["val_accuracy"] == pytest.approx(row["accuracy"]), answer.output


@pytest.mark.acceptance  # with real trainings
def test_the_page_and_the_table_name_every_recipe_and_the_command_that_repeats_it(compared, tmp_path):
    page = compared.read("experiments/one/report.html").data.decode()
    assert all(f"{name}" in page for name in ("baseline", "frozen", "single-view", "ensemble", "one-lost-s0"))
    path = tmp_path / "results.md"
    path.write_text("# Ours\n\nWords before.\n")
    carclf(compared, "table", "--name", "one", "--to", str(path), "--note", "On a test's machine.")
    carclf(compared, "table", "--name", "one", "--to", str(path), "--note", "Again | there.")
    text = path.read_text()
    assert text.startswith("# Ours\n\nWords before.\n\n<!-- experiment one -->\n## one\n")
    assert text.count("<!-- experiment one -->") == 1
    assert "Again | there." in text
    assert "On a test's machine." not in text
    assert "`carclf run --recipe demo --set" in text
    assert "--set fine_tune.epochs=0 " in text
    assert text.count("--set submit.enabled=false") == 4  # whoever repeats a row sends nothing by it
    assert "Not trained" not in text
    assert "![Accuracy over minutes of training](one.png)" in text
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.acceptance  # with real trainings
def test_a_member_that_trained_to_a_rung_goes_on_to_the_same_weights_as_one_that_was_never_stopped(
    compared, kaggle, tmp_path
):
    store = open_store(str(tmp_path))
    plan(store, "straight", "--try", "single-view", "--seeds", "0")
    carclf(store, "run", "--name", "straight")
    raced, straight = (json.loads(place.read(f"models/{key}/manifest.json").data) for place, key in (
        (place, json.loads(place.read(f"runs/{name}-baseline-s0.json").data)["stages"]["fine_tune"]["key"])
        for place, name in ((compared, "one"), (store, "straight"))))
    assert raced["key"] == straight["key"]
    assert raced["files"]["reference_logits.parquet"]["sha256"] == straight["files"]["reference_logits.parquet"]["sha256"]


@pytest.mark.parametrize(("ranges", "words"), [
    (["split.val_fraction=0.1..0.2"], "changes split.val_fraction"),
    (["fine_tune.epochs=1..5000"], "fine_tune.epochs = 5000: Input should be less than or equal to 500"),
    (["fine_tune.schedule=cosine|plateau|plataeu"], "fine_tune.schedule = 'plataeu'"),
    (["fine_tune.mixup=0..0.2", "fine_tune.mixup=0..0.3"], "A setting has two ranges"),
])
def test_a_search_that_cannot_be_carried_out_asks_nothing_of_its_study(tmp_path, ranges, words):
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match=words):
        carclf(store, "plan", "--name", "rates", "--form", json.dumps({"recipe": "demo", "search": ranges}))
    assert list(store.list_keys("studies/")) == []


@pytest.mark.acceptance  # with real trainings
def test_once_the_budget_is_spent_no_training_begins(kaggle, tmp_path):
    store = open_store(str(tmp_path))
    plan(store, "short", "--try", "frozen", "--try", "mixup", "--try", "ensemble frozen mixup", "--seeds", "0",
         "--budget-minutes", "0.001")
    carclf(store, "run", "--name", "short")
    found = json.loads(store.read("experiments/short/outcome.json").data)
    assert [row["recipe"] for row in found["rows"]] == ["baseline"]
    assert (found["not_trained"], found["failed"]) == (["frozen", "mixup", "ensemble"], [])
    assert store.read("runs/short-mixup-s0.json") is None  # what never began is no run


@pytest.mark.acceptance  # with real trainings
def test_what_is_spent_stays_spent_when_the_experiment_is_run_again_or_pauses_at_a_rung(kaggle, tmp_path):
    for name, options in (("again", []), ("raced", ["--rungs", "1"])):
        store = open_store(str(tmp_path / name))
        plan(store, name, "--try", "frozen", "--try", "mixup", "--seeds", "0", *options)
        carclf(store, "prepare", "--name", name)
        spent = [0.0]
        for rung in ("1", "0", "0") if options else ("0", "0"):
            carclf(store, "train", "--name", name, "--training-runs", "0", "--rung", rung)
            spent.append(minutes_spent(read_plan(name, store), store))
        assert spent == sorted(spent)
        head = json.loads(store.read(f"runs/{name}-baseline-s0.json").data)["stages"]["train_head"]
        assert 60 * spent[1] > head["seconds"] + 0.1  # the epochs to the rung too


@pytest.mark.acceptance  # with real trainings
def test_shared_features_cost_each_recipe_the_same_whichever_came_first_and_computed_them(kaggle, tmp_path):
    store = open_store(str(tmp_path))
    plan(store, "shared", "--set", "fine_tune.epochs=0", "--try", "smooth head.label_smoothing=0.3",
         "--try", "batch-32", "--seeds", "0")
    said = carclf(store, "run", "--name", "shared")
    assert "the same as the baseline: it changes nothing of it" in said  # 32 is what the baseline has
    computed = sum(json.loads(store.read(key).data)["seconds"] for key in store.list_keys("features/")
                   if key.endswith("manifest.json"))
    saved = {}
    for name in ("baseline", "smooth"):
        key = json.loads(store.read(f"runs/shared-{name}-s0.json").data)["stages"]["train_head"]["key"]
        head = json.loads(store.read(f"models/{key}/manifest.json").data)
        saved[name] = head["metrics"]["seconds_saved"]
        row = next(row for row in json.loads(store.read("experiments/shared/outcome.json").data)["rows"]
                   if row["recipe"] == name)
        assert 60 * row["minutes"] == pytest.approx(head["seconds"] + saved[name])
    assert "say nothing of other seeds" in carclf(store, "table", "--name", "shared")
    assert saved["baseline"] < 0.1 * computed
    assert 0.2 * computed < saved["smooth"] <= computed


@pytest.mark.acceptance  # with real trainings
def test_a_recipe_of_which_a_fold_was_not_trained_is_named(kaggle, tmp_path):
    store = open_store(str(tmp_path))
    plan(store, "folds", "--set", "fine_tune.epochs=0", "--try", "smooth head.label_smoothing=0.3", "--seeds", "0",
         "--folds", "2")
    for fold in ("0", "1"):
        carclf(store, "prepare", "--name", "folds", "--fold", fold)
    carclf(store, "train", "--name", "folds", "--training-runs", "0,1,2")
    carclf(store, "compare", "--name", "folds")
    found = json.loads(store.read("experiments/folds/outcome.json").data)
    assert [row["recipe"] for row in found["rows"]] == ["baseline"]
    assert found["not_trained"] == ["smooth"]


@pytest.mark.acceptance  # with real trainings
def test_a_training_that_breaks_in_a_way_nobody_foresaw_stops_no_other(kaggle, tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "decoded").write_text("a file where fine-tuning needs a folder")
    plan(store, "broken", "--set", "fine_tune.epochs=0", "--set", "fine_tune.cache_gb=0",
         "--try", "cached fine_tune.cache_gb=1 fine_tune.epochs=1", "--try", "smooth head.label_smoothing=0.3",
         "--seeds", "0")
    said = carclf(store, "run", "--name", "broken")
    assert "broken-cached-s0 failed: FileExistsError: " in said
    found = json.loads(store.read("experiments/broken/outcome.json").data)
    assert [row["recipe"] for row in found["rows"]] == ["baseline", "smooth"]
    assert [row["run"] for row in found["failed"]] == ["broken-cached-s0"]


def test_what_was_not_trained_or_compared_is_said(tmp_path):
    store = open_store(str(tmp_path))
    plan(store, "early", "--try", "frozen")
    with pytest.raises(QualityError, match="The baseline of 'early' finished with no seed"):
        carclf(store, "compare", "--name", "early")
    with pytest.raises(ConfigError, match="was not compared yet"):
        carclf(store, "table", "--name", "early")
    with pytest.raises(ConfigError, match="has no member 9: they are 0 to 3"):
        carclf(store, "train", "--name", "early", "--training-runs", "9")
    with pytest.raises(ConfigError, match="has 0 rungs, and no rung 2"):
        carclf(store, "train", "--name", "early", "--training-runs", "0", "--rung", "2")
    with pytest.raises(ConfigError, match="are no whole numbers"):
        carclf(store, "train", "--name", "early", "--training-runs", "a")


def test_a_form_with_ranges_asks_its_study_once_however_often_it_is_planned(tmp_path):
    store = open_store(str(tmp_path))
    form = {"recipe": "demo", "recipes": ["frozen"], "search": ["fine_tune.learning_rate=1e-4..1e-2"], "num_trials": 3}
    for _ in range(2):
        said = carclf(store, "plan", "--name", "rates", "--form", json.dumps(form))
        assert said == "rates: 5 recipes, 10 trainings\n"
    names = ["baseline", "frozen", "trial-0", "trial-1", "trial-2"]
    plan = json.loads(store.read("experiments/rates/plan.json").data)
    assert (list(plan["recipes"]), plan["study"]) == (names, "rates")
    with pytest.raises(ConfigError, match="--form has the recipes already"):
        carclf(store, "plan", "--name", "rates", "--form", json.dumps(form), "--try", "frozen")
