"""The page of the deployment's policy."""

from pydantic import BaseModel, ConfigDict

from carclf.config import Policy, iter_settings


class PolicyLimit(BaseModel):
    """A limited setting, the values that a run may use, and the setting's description."""

    model_config = ConfigDict(frozen=True)

    setting: str
    allowed: str
    description: str


def policy_limits(policy: Policy) -> list[PolicyLimit]:
    """Return the limited settings in their order."""
    descriptions = {name: str(field.description) for name, field in iter_settings()}
    limits = policy.describe_limits()
    return [PolicyLimit(setting=name, allowed=limits[name], description=text) for name, text in descriptions.items()
            if name in limits]
