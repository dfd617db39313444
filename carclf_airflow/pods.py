"""Select the pod template of tasks that need a GPU (Airflow's KubernetesExecutor)."""

import os
from typing import Any

# Stages that train or predict: promote evaluates the champion again, submit predicts the test images. "predict" is of
# car_predict.
GPU_STAGES = {"train_head", "fine_tune", "evaluate", "promote", "refit", "submit", "predict"}


def gpu_task_options(stage: str) -> dict[str, Any]:
    """Return the task arguments that select the pod template CARCLF_GPU_POD_TEMPLATE for a stage that needs a GPU.

    Return {} for other stages, for which ``pod_template_file`` in values.yaml selects stage.yaml, and if the variable
    is not set (Celery, one machine). The scheduler reads the template from its file; a template given as an object
    would import the Kubernetes client whenever the DAG is parsed.
    """
    template = os.environ.get("CARCLF_GPU_POD_TEMPLATE")
    return {"executor_config": {"pod_template_file": template}} if template and stage in GPU_STAGES else {}
