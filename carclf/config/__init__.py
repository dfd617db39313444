"""Settings and recipes."""

from carclf.config.backbones import FAMILY_BY_BACKBONE, Family
from carclf.config.governed import AT_LEAST, AT_MOST, GOVERNED, RULES, allowed_choices, describe_limit
from carclf.config.overrides import (
    build_config,
    deployment_settings,
    flatten,
    iter_settings,
    parse_override,
    require_weights,
)
from carclf.config.policy import Policy, load_config, load_policy, may_approve
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
    "AT_LEAST", "AT_MOST", "AUTO", "FAMILY_BY_BACKBONE", "GOVERNED", "HUB_NAME", "NAMED_WEIGHTS", "RECIPES", "RULES",
    "Audit", "Augment", "Backbone", "Config", "Duplicates", "Evaluate", "Family", "FineTune", "Gate", "Head", "Model",
    "NoneIfAuto", "Policy", "Validation", "allowed_choices", "build_config", "deployment_settings", "describe_limit",
    "flatten", "iter_settings", "load_config", "load_policy", "may_approve", "parse_override", "require_weights",
    "scaled_size",
]
