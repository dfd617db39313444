"""The page that starts a run: a field per setting, and what the run would do."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from carclf.config import (
    AUTO,
    COMMON_SETTINGS,
    OFF,
    ON,
    TASK_SETTINGS,
    Config,
    Policy,
    build_config,
    flatten,
    format_setting,
    iter_settings,
    load_policy,
    load_settings,
    parse_override,
    setting_title,
    setting_type,
)
from carclf.config.recipes import RECIPE_DESCRIPTIONS
from carclf.config.settings import AUTO_TEXT
from carclf.dashboard.run_reader import Facts
from carclf.errors import CarclfError, ConfigError
from carclf.formatting import format_count
from carclf.runs.dry_run import ExpectedStage, dry_run
from carclf.services.storage import Store

COMMON = "Common settings"


class StartQuery(BaseModel):
    """The values of the form: the recipe, and ``key=value`` overrides of its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = ""
    set: list[str] = []
    note: str = ""


class FormField(Facts):
    """A setting in the form. An empty ``value`` keeps ``default``, the value of the recipe and the deployment."""

    name: str
    title: str
    description: str
    policy: str  # what the policy allows, or ""
    choices: tuple[str, ...]  # () for a number or a text
    is_number: bool
    value: str
    default: str


class StartPreview(Facts):
    """What a run with these settings would do; with an ``error``, the run cannot be started.

    ``conf`` is the run's configuration for Airflow's REST API, and ``command`` starts the same run in a terminal.
    """

    error: str = ""
    stages: tuple[ExpectedStage, ...] = ()
    sentences: tuple[str, ...] = ()
    conf: dict[str, Any] = Field(default_factory=dict)
    command: str = ""


def start_view(store: Store, recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of the template for a recipe and ``key=value`` overrides, as ``--set`` accepts them."""
    policy = load_policy()
    recipe = policy.default_recipe(recipe)
    return {
        "recipe": recipe, "recipes": policy.allowed_recipes(), "description": RECIPE_DESCRIPTIONS[recipe],
        "sections": _sections(recipe, _texts(overrides), policy), "preview": _preview(store, recipe, overrides),
        "common": COMMON,
    }


def _texts(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values as they are written; a boolean as the field shows it."""
    pairs = (text.partition("=") for text in overrides)
    return {name: {"true": ON, "false": OFF}.get(value, value) for name, _, value in pairs}


def _sections(recipe: str, texts: Mapping[str, str], policy: Policy) -> dict[str, list[FormField]]:
    """Return the fields by the heading of their section, the common settings first."""
    defaults = _defaults(recipe)
    fields = {name: field for name, field in iter_settings() if not name.startswith(TASK_SETTINGS)}
    sections: dict[str, list[FormField]] = {}
    for name in [*COMMON_SETTINGS, *(name for name in fields if name not in COMMON_SETTINGS)]:
        section = COMMON if name in COMMON_SETTINGS else name.partition(".")[0].replace("_", " ").capitalize()
        field = _field(name, fields[name], defaults[name], policy)
        sections.setdefault(section, []).append(field.model_copy(update={"value": texts.get(name, "")}))
    return sections


def _field(name: str, field: FieldInfo, default: object, policy: Policy) -> FormField:
    return FormField(
        name=name, title=setting_title(name), description=str(field.description), policy=policy.setting_hint(name),
        choices=tuple(policy.setting_choices(name, field)), is_number=setting_type(field) in (int, float), value="",
        default="empty" if default in (None, "") else format_setting(default),
    )


def _defaults(recipe: str) -> dict[str, Any]:
    """Return the settings of the recipe and the deployment, or those of the recipe if they do not fit together."""
    try:
        config = load_settings(recipe, [])
    except ConfigError:
        config = build_config(recipe, {})
    return flatten(config.model_dump())


def _preview(store: Store, recipe: str, overrides: Sequence[str]) -> StartPreview:
    try:
        config = load_settings(recipe, list(overrides))
        stages = dry_run(store, recipe, config)
    except CarclfError as error:
        return StartPreview(error=str(error))
    settings = flatten(config.model_dump())
    conf = {name: _airflow_value(value, settings[name]) for name, value in map(parse_override, overrides)}
    conf["recipe"] = recipe
    options = [part for text in overrides for part in ("--set", text)]
    return StartPreview(
        stages=tuple(stages), sentences=(_expected_time(stages), _after_training(config)), conf=conf,
        command=shlex.join(["carclf", "run", "--store", store.url, "--recipe", recipe, *options]),
    )


def _airflow_value(chosen: Any, value: Any) -> Any:
    """Return a chosen value as the params of the DAG accept it: a boolean as on or off, and auto as its number."""
    if isinstance(value, bool):
        return format_setting(value)
    return value if chosen == AUTO_TEXT and value == AUTO else chosen


def _expected_time(stages: Sequence[ExpectedStage]) -> str:
    new = [stage for stage in stages if not stage.reused_from]
    if not new:
        return "Trains nothing: every stage is reused."
    unknown = [stage.stage for stage in new if stage.seconds is None]
    if unknown:
        return f"The time is unknown: no run of the recipe has a duration of {', '.join(unknown)}."
    minutes = sum(stage.seconds or 0 for stage in new) / 60
    num_times = min(stage.num_times for stage in new)
    text = "less than a minute" if minutes < 1 else f"about {format_count(round(minutes), 'minute')}"
    return f"Takes {text}, from the last {format_count(num_times, 'run')} of the recipe."


def _after_training(config: Config) -> str:
    """Return what happens to a model that passes the gate."""
    approval = "waits for a person's approval" if config.gate.approval == "required" else "becomes the champion"
    is_submitted = config.submit.enabled and config.competition
    submission = "is submitted to Kaggle" if is_submitted else "is not submitted"
    return f"A model that passes the gate {approval} and {submission}."
