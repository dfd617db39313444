"""Which tasks get a GPU where each task is a pod of its own (Airflow's KubernetesExecutor)."""

import os
from typing import Any

# They train, or answer with a network: promote where the champion is measured anew, submit for the test pictures.
GPU_STAGES = {"train_head", "fine_tune", "evaluate", "promote", "submit"}


def gpu_task_options(stage: str) -> dict[str, Any]:
    """The task's arguments that name its pod's template, CARCLF_GPU_POD_TEMPLATE, which the scheduler reads.

    Empty where that is not set, as with Celery and on one machine. By its file, because a template given as an object
    would have every parsing of the DAG import Kubernetes' client.
    """
    template = os.environ.get("CARCLF_GPU_POD_TEMPLATE")
    return {"executor_config": {"pod_template_file": template}} if template and stage in GPU_STAGES else {}
