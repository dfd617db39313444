"""Settings and recipes."""

from carclf.config.backbones import FAMILY_BY_BACKBONE, Family
from carclf.config.overrides import (
    deployment_settings,
    flatten,
    iter_settings,
    load_config,
    parse_override,
    require_weights,
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
    "AUTO", "FAMILY_BY_BACKBONE", "HUB_NAME", "NAMED_WEIGHTS", "RECIPES", "Audit", "Augment", "Backbone", "Config",
    "Duplicates", "Evaluate", "Family", "FineTune", "Gate", "Head", "Model", "NoneIfAuto", "Validation",
    "deployment_settings", "flatten", "iter_settings", "load_config", "parse_override", "require_weights",
    "scaled_size",
]
