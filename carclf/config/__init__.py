"""Settings and recipes."""

from carclf.config.backbones import FAMILY_BY_BACKBONE, Family
from carclf.config.descriptions import (
    COMMON_SETTINGS,
    OFF,
    ON,
    TASK_SETTINGS,
    RecipeDescription,
    SettingDescription,
    describe_recipes,
    describe_settings,
    setting_choices,
    setting_limits,
    setting_title,
    setting_type,
)
from carclf.config.governed import (
    AT_LEAST,
    AT_MOST,
    EXACTLY,
    GOVERNED,
    RULES,
    THRESHOLDS,
    ZERO_IS_NO_LIMIT,
    allowed_choices,
    describe_limit,
    format_setting,
)
from carclf.config.overrides import (
    build_config,
    deployment_settings,
    flatten,
    iter_settings,
    parse_override,
    require_recipe,
    require_weights,
)
from carclf.config.policy import POLICY_VARIABLE, Policy, load_config, load_policy, load_settings, may_approve
from carclf.config.project import (
    PROJECT_FILE,
    PROJECT_VARIABLE,
    RECIPE_SUFFIX,
    apply_project_file,
    apply_recipe_file,
    read_recipe_file,
    write_project_file,
)
from carclf.config.recipes import RECIPES
from carclf.config.settings import (
    AUTO,
    HUB_NAME,
    NAMED_WEIGHTS,
    Audit,
    Augment,
    Backbone,
    Config,
    Duplicates,
    Evaluate,
    FineTune,
    Gate,
    Head,
    Model,
    NoneIfAuto,
    Validation,
    scaled_size,
)

__all__ = [
    "AT_LEAST", "AT_MOST", "AUTO", "COMMON_SETTINGS", "EXACTLY", "FAMILY_BY_BACKBONE", "GOVERNED", "HUB_NAME",
    "NAMED_WEIGHTS", "OFF", "ON", "POLICY_VARIABLE", "PROJECT_FILE", "PROJECT_VARIABLE", "RECIPES", "RECIPE_SUFFIX",
    "RULES", "TASK_SETTINGS", "THRESHOLDS", "ZERO_IS_NO_LIMIT", "Audit", "Augment", "Backbone", "Config", "Duplicates",
    "Evaluate", "Family", "FineTune", "Gate", "Head", "Model", "NoneIfAuto", "Policy", "RecipeDescription",
    "SettingDescription", "Validation", "allowed_choices", "apply_project_file", "apply_recipe_file", "build_config",
    "deployment_settings", "describe_limit", "describe_recipes", "describe_settings", "flatten", "format_setting",
    "iter_settings", "load_config", "load_policy", "load_settings", "may_approve", "parse_override", "read_recipe_file",
    "require_recipe", "require_weights", "scaled_size", "setting_choices", "setting_limits", "setting_title",
    "setting_type", "write_project_file",
]
