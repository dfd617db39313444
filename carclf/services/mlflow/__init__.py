"""MLflow, on when MLFLOW_TRACKING_URI is set: what it is told of a run, beside the stage and never in its way."""

from carclf.services.mlflow.background import Aside, switched_on
from carclf.services.mlflow.mlflow_run import FollowedRun, RunFacts
from carclf.services.mlflow.model_registry import ModelFacts, champion_version, name_champion

__all__ = ["Aside", "FollowedRun", "ModelFacts", "RunFacts", "champion_version", "name_champion", "switched_on"]
