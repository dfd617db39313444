"""MLflow, used if MLFLOW_TRACKING_URI is set: runs, epochs and the model registry, in a thread of its own."""

from carclf.services.mlflow.background import (
    BackgroundQueue,
    import_mlflow,
    mlflow_configured,
    mlflow_enabled,
    raising_service_errors,
)
from carclf.services.mlflow.mlflow_run import MlflowRun, RunDescription
from carclf.services.mlflow.model_registry import ModelDescription, register_champion, set_champion_alias

__all__ = [
    "BackgroundQueue", "MlflowRun", "ModelDescription", "RunDescription", "import_mlflow", "mlflow_configured",
    "mlflow_enabled", "raising_service_errors", "register_champion", "set_champion_alias",
]
