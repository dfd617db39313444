"""The policy of a deployment: what its runs may loosen, read from the TOML file that CARCLF_POLICY names.

``load_config`` is the only way from a recipe and overrides to a run's configuration, so each way to start a run is
subject to the policy: the trigger form, a REST call, ``--set``, CARCLF_SETTINGS, an experiment, an ensemble. A run that
was recorded under a looser policy is tightened when it is loaded.
"""

import os
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictBool, TypeAdapter, ValidationError, field_validator
from pydantic.fields import FieldInfo

from carclf.config.descriptions import setting_choices
from carclf.config.governed import (
    GOVERNED,
    RULES,
    ZERO_IS_NO_LIMIT,
    allowed_choices,
    describe_limit,
    format_setting,
    stricter,
    with_implied_limits,
)
from carclf.config.overrides import (
    build_config,
    config_from,
    deployment_settings,
    flatten,
    iter_settings,
    parse_override,
)
from carclf.config.recipes import RECIPES
from carclf.config.settings import Config
from carclf.config.sources import ARCHIVE_SUFFIXES
from carclf.errors import ConfigError

POLICY_VARIABLE = "CARCLF_POLICY"
ANY = ("*",)
TOML_TYPES = {  # what is expected, by the type of pydantic's error
    "tuple_type": 'expected a list, such as ["cpu"]', "bool_type": "expected true or false",
    "dict_type": "expected a table", "model_type": "expected a table", "model_attributes_type": "expected a table",
}


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Allowed(_Table):
    """The recipes and the sources that runs may use, as names or patterns with ``*`` and ``?``."""

    recipes: tuple[str, ...] = ANY
    sources: tuple[str, ...] = ANY

    @field_validator("recipes")
    @classmethod
    def _require_recipes(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [pattern for pattern in patterns if not _matching(RECIPES, [pattern])]:
            raise ValueError(f"{unknown[0]!r} matches no recipe. Expected names or patterns of {', '.join(RECIPES)}")
        return patterns


class Approval(_Table):
    """Who may approve a promotion: the person who started the run (``own_runs``), and if the gate may be overridden."""

    own_runs: StrictBool = True
    override: StrictBool = True


class PolicyTables(_Table):
    """The contents of a policy file; ``settings`` maps names of settings to the loosest value that a run may use."""

    settings: dict[str, Any] = {}
    allowed: Allowed = Allowed()
    approval: Approval = Approval()

    @field_validator("settings", mode="after")
    @classmethod
    def _check_settings(cls, tree: dict[str, Any]) -> dict[str, Any]:
        settings = flatten(tree)
        if len(settings) < _num_leaves(tree):  # TOML permits gate.threshold and "gate.threshold" side by side
            raise ValueError("it limits a setting twice, with and without quotation marks. Remove one of the lines")
        for name, limit in settings.items():
            _check_limit(name, limit)
        return settings


class Policy(PolicyTables):
    """The policy that a ``file`` contains. Without a policy, everything is allowed and ``file`` is empty."""

    file: str = ""

    @cached_property
    def limits(self) -> dict[str, Any]:
        """The loosest value of each limited setting, including the settings that would bypass another limit."""
        limits = with_implied_limits(self.settings)
        return {name: limits[name] for name in RULES if name in limits}

    def setting_hint(self, name: str) -> str:
        """Return what the policy allows for a setting, such as ``Policy: at least 0.9.``; "" if it sets no limit."""
        limit = self.describe_limits().get(name, "")
        if name == "data.source" and self.allowed.sources != ANY:
            limit = f"one of {', '.join(self.allowed.sources)}"
        return f"Policy: {limit}." if limit else ""

    def describe_limits(self) -> dict[str, str]:
        """Return each limit as text by setting, such as ``{"gate.threshold": "at least 0.9"}``."""
        return {name: describe_limit(name, limit) for name, limit in self.limits.items()}

    def setting_choices(self, name: str, field: FieldInfo) -> list[str]:
        """Return the allowed values of a setting that is a choice, as ``--set`` accepts them; [] for any other."""
        choices = setting_choices(field)
        if not choices or name not in self.limits:
            return choices
        limit = self.limits[name]
        return [format_setting(value) for value in allowed_choices(name, limit) or (limit,)]

    def describe(self) -> list[str]:
        """Return everything that the policy limits, one text each."""
        texts = [f"{name} {text}" for name, text in self.describe_limits().items()]
        if self.allowed.recipes != ANY:
            texts.append(f"recipes {', '.join(self.allowed_recipes())}")
        if self.allowed.sources != ANY:
            texts.append(f"sources {', '.join(self.allowed.sources) or 'none'}")
        texts += ["nobody may approve a run that they started"] * (not self.approval.own_runs)
        return texts + ["nobody may override the gate"] * (not self.approval.override)

    def stricter_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the limits of the settings, by dotted name, that are looser than the policy."""
        allowed = {name: stricter(name, settings[name], limit) for name, limit in self.limits.items()}
        return {name: value for name, value in allowed.items() if value != settings[name]}

    def tighten(self, config: Config) -> Config:
        """Return the configuration with each setting that is looser than the policy replaced by its limit."""
        settings = flatten(config.model_dump())
        changes = self.stricter_settings(settings)
        return config_from(settings | changes) if changes else config

    def require_settings(self, explicit: Mapping[str, Any]) -> None:
        """Raise ConfigError if a setting that was chosen for a run is looser than the policy."""
        known = {name: explicit[name] for name in self.limits if name in explicit}
        for name, value in known.items():
            limit = self.limits[name]
            if stricter(name, value, limit) != value:
                raise ConfigError(f"{name} = {format_setting(value)} is looser than the policy {self.file} allows: "
                                  f"{describe_limit(name, limit)}. Remove the setting, or make it stricter.")

    def require_allowed(self, recipe: str, config: Config) -> None:
        """Raise ConfigError if the recipe or a source of images is not in the policy's lists."""
        if not _matching([recipe], self.allowed.recipes):
            raise ConfigError(f"recipe = {recipe!r} is not allowed by the policy {self.file}. The allowed recipes are "
                              f"{', '.join(self.allowed_recipes()) or 'none'}.")
        extra = [source.strip() for source in config.download.extra_data.split(",") if source.strip()]
        for name, source in [("data.source", config.data.source), *(("download.extra_data", text) for text in extra)]:
            self.require_source(name, source)

    def require_source(self, name: str, source: str) -> None:
        """Raise ConfigError if a source of images, the value of the setting ``name``, is not in the policy's list."""
        if not is_allowed_source(source, self.allowed.sources):
            allowed = ", ".join(self.allowed.sources)
            hint = f"Set {name} to one of {allowed}." if allowed else "It allows no source."
            raise ConfigError(f"{name} = {source!r} is not allowed by the policy {self.file}. {hint}")

    def require_stage(self, stage: str) -> None:
        """Raise ConfigError if the policy forbids a stage."""
        if stage == "submit" and self.limits.get("submit.enabled") is False:
            raise ConfigError(f"submit.enabled is off in the policy {self.file}: nothing is submitted.")

    def require_approver(self, started_by: str, approved_by: str, override_reason: str = "") -> None:
        """Raise ConfigError if this person may not approve the run, or if nobody may override the gate."""
        if override_reason and not self.approval.override:
            raise ConfigError(f"approval.override is false in the policy {self.file}: nobody can promote a rejected "
                              "model.")
        if approved_by and not may_approve(self, started_by, approved_by):
            raise ConfigError(f"{approved_by} started this run, and approval.own_runs is false in the policy "
                              f"{self.file}. Another person must approve it.")

    def allowed_recipes(self) -> list[str]:
        """Return the names of the allowed recipes, in order."""
        return _matching(RECIPES, self.allowed.recipes)

    def default_recipe(self, recipe: str) -> str:
        """Return the deployment's recipe, or the first allowed one if the policy does not allow it."""
        recipes = self.allowed_recipes()
        return recipe if recipe in recipes or not recipes else recipes[0]


def may_approve(policy: Policy, started_by: str, approver: str) -> bool:
    """Return whether a person may approve a run; ``started_by`` is empty if a schedule or an event started it."""
    starter = _comparable(started_by)
    return policy.approval.own_runs or not starter or starter != _comparable(approver)


def _comparable(name: str) -> str:
    """Return a person's name without spaces at its ends, invisible characters, and differences of case and form."""
    visible = "".join(character for character in unicodedata.normalize("NFKC", name) if character.isprintable())
    return visible.strip().casefold()


def load_policy() -> Policy:
    """Return the policy that CARCLF_POLICY names, or one that allows everything if the variable is not set.

    Raise ConfigError if the file is missing or invalid.
    """
    if not (name := os.environ.get(POLICY_VARIABLE, "")):
        return Policy()
    try:
        values = tomllib.loads(Path(name).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"The policy {name!r} cannot be read: {error.strerror}. Fix {POLICY_VARIABLE}, or restore "
                          "the file. Without it, no run starts.") from error
    except ValueError as error:
        raise ConfigError(f"The policy {name} is not valid TOML: {error}. docs/policy.md has an example.") from error
    try:
        return Policy(file=name, **PolicyTables.model_validate(values).model_dump())
    except ValidationError as error:
        raise ConfigError(f"The policy {name} is invalid: {_describe(error)}") from error


def load_config(
    recipe: str = "gpu", overrides: Mapping[str, Any] | None = None, *, base: Mapping[str, Any] | None = None
) -> Config:
    """Return the recipe's configuration with overrides by dotted name, such as ``{"fine_tune.epochs": 3}``.

    An override of None keeps the recipe's value. Values of the recipe and of ``base``, which nobody chose for this run,
    are tightened to the policy. Raise ConfigError if the recipe or a setting does not exist, if a value is out of
    range, or if the policy does not allow the recipe, the source or an override.
    """
    explicit = {name: value for name, value in (overrides or {}).items() if value is not None}
    policy = load_policy()
    # with the names whose value is None: an unknown name is an error without a value, too
    config = build_config(recipe, dict.fromkeys(overrides or {}) | dict(base or {}) | explicit)
    settings = flatten(config.model_dump())
    policy.require_settings({name: settings[name] for name in explicit})
    policy.require_allowed(recipe, config)
    return policy.tighten(config)


def load_settings(recipe: str, overrides: list[str], base: Mapping[str, Any] | None = None) -> Config:
    """Return the recipe with the deployment's settings (CARCLF_SETTINGS) and the overrides, which take precedence.

    ``base`` replaces the recipe's and the deployment's values by dotted name. They are tightened to the policy.
    """
    chosen = dict(map(parse_override, overrides))
    deployed = dict(map(parse_override, deployment_settings([])))
    explicit = {name: value for name, value in deployed.items() if name not in (base or {})} | chosen
    return load_config(recipe, explicit, base=base)


def is_allowed_source(source: str, patterns: Sequence[str]) -> bool:
    """Return whether a source matches a pattern of its kind: a slug, a URL or a path. Paths are made absolute."""
    name = _absolute(source)
    if "://" in name and ".." in name.split("/"):  # some servers resolve it
        patterns = [pattern for pattern in patterns if pattern == "*"]
    return any(pattern == "*" or fnmatchcase(name, _absolute(pattern)) for pattern in patterns)


def _absolute(text: str) -> str:
    """Return a URL without a slash at its end, a slug as it is, and a path as an absolute one without ``..``."""
    if "://" in text:
        return text.rstrip("/")
    is_path = "/" in text or text.lower().endswith(ARCHIVE_SUFFIXES)
    if not is_path:
        return text
    # Path makes ~ of ./~, as where a source is read. Path.expanduser raises for an unknown user, resolve follows links.
    return os.path.abspath(os.path.expanduser(Path(text)))  # noqa: PTH100, PTH111


def _matching(names: Sequence[str] | Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _num_leaves(tree: Mapping[str, Any]) -> int:
    return sum(_num_leaves(value) if isinstance(value, dict) else 1 for value in tree.values())


def _check_limit(name: str, limit: Any) -> None:
    """Raise ValueError if a policy cannot limit the setting, or if the limit is not a value of the setting."""
    if name not in GOVERNED:
        similar = get_close_matches(name, GOVERNED, n=1)
        hint = f"A similar setting is {similar[0]}" if similar else f"Expected one of {', '.join(GOVERNED)}"
        raise ValueError(f"{name} cannot be limited by a policy. {hint}")
    field = dict(iter_settings())[name]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        adapter.validate_python(limit, strict=True)
    except ValidationError as error:
        raise ValueError(f"{name} = {limit!r}: {_problem(error)}. {field.description}") from error
    if name in ZERO_IS_NO_LIMIT and not limit:
        raise ValueError(f"{name} = 0 sets no limit: expected a number above 0. Or remove the line")


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        tables: dict[Any, type[_Table]] = {"allowed": Allowed, "approval": Approval}
        known = ", ".join(tables.get(first["loc"][0], PolicyTables).model_fields)
        is_setting = any(setting.startswith(f"{name}.") for setting in GOVERNED)
        hint = " Move its settings to the table [settings]." if is_setting else ""
        return f"{name} is unknown. Expected {known}.{hint}"
    return f"{name}: {_problem(error)}."


def _problem(error: ValidationError) -> str:
    """Return the first problem as a sentence without its full stop, in the terms of TOML."""
    first = error.errors()[0]
    message = TOML_TYPES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return message.removesuffix(".")
