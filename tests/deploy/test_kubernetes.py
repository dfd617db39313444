"""Kubernetes: the pods that the provider's code builds from the templates, and the tasks that use each template."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow_process import ROOT, airflow_environment, printed_json

from carclf_airflow.pods import GPU_STAGES, gpu_task_options

pytestmark = pytest.mark.integration

FOLDER = ROOT / "deploy/kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
SECRETS = ("DATABASE", "SQL_ALCHEMY", "FERNET", "JWT", "SECRET_KEY", "PASSWORD")
BUILD_PODS = """
import json, sys
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
config, pods = KubeConfig(), {}
for path in sys.argv[1:]:
    pod = PodGenerator.construct_pod(
        dag_id="car_retrain", task_id="fine_tune", pod_id="car-retrain-fine-tune", try_number=1, date=None,
        kube_image=config.kube_image, args=["python", "-m", "airflow.sdk.execution_time.execute_workload"],
        pod_override_object=None, base_worker_pod=PodGenerator.deserialize_model_file(path), namespace="carclf",
        scheduler_job_id="1", run_id="r")
    pods[path] = PodGenerator.serialize_pod(pod)
print(json.dumps(pods))
"""


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The pods that the KubernetesExecutor builds, with the chart's values as its configuration."""
    values = VALUES["config"]["kubernetes_executor"]
    settings = {f"AIRFLOW__KUBERNETES_EXECUTOR__{name.upper()}": str(value) for name, value in values.items()}
    paths = {name: str(FOLDER / "pods" / f"{name}.yaml") for name in ("stage", "gpu-stage")}
    environment = airflow_environment(tmp_path_factory.mktemp("airflow"), **settings)
    built = printed_json(BUILD_PODS, environment, *paths.values())
    return {name: built[path] for name, path in paths.items()}


def test_the_templates_differ_only_in_the_gpu(pods: dict[str, Any]) -> None:
    plain, gpu = (pods[name]["spec"]["containers"][0].pop("resources") for name in ("stage", "gpu-stage"))
    assert gpu["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in {**plain["limits"], **plain["requests"]}
    assert plain["limits"]["memory"]
    assert gpu["limits"]["memory"]
    assert pods["gpu-stage"]["spec"].pop("tolerations")
    for pod in pods.values():
        pod["metadata"]["labels"].pop("app.kubernetes.io/component")
    assert pods["gpu-stage"] == pods["stage"]


def test_a_pod_runs_the_workers_image_with_the_tasks_command(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        (container,) = pod["spec"]["containers"]
        assert container["image"] == "carclf-worker:latest"
        assert container["args"] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
        assert pod["metadata"]["labels"]["dag_id"] == "car_retrain"


def test_a_pod_has_no_root_no_permissions_and_no_secret_of_airflow(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 50000
        assert spec["automountServiceAccountToken"] is False
        assert spec["restartPolicy"] == "Never"
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        names = [variable["name"] for variable in container["env"]]
        assert [name for name in names if any(secret in name for secret in SECRETS)] == []
        assert container["envFrom"] == [{"secretRef": {"name": "carclf-store"}}]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert [name for name, volume in volumes.items() if "secret" in volume] == []


def test_the_charts_values_only_name_the_secrets() -> None:
    assert VALUES["data"] == {"metadataSecretName": "carclf-airflow"}
    assert {VALUES[name] for name in ("fernetKeySecretName", "jwtSecretName", "apiSecretKeySecretName")} == {
        "carclf-airflow"}
    assert {"name": "AIRFLOW_ADMIN_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "carclf-admin", "key": "password"}}
            } in VALUES["apiServer"]["env"]


def test_users_and_roles_are_those_of_the_compose_file() -> None:
    setting = f"AIRFLOW__CORE__AUTH_MANAGER: {VALUES['config']['core']['auth_manager']}\n"
    assert setting in (ROOT / "docker-compose.yml").read_text()
    assert VALUES["apiServer"]["command"] == ["python", "/opt/carclf/docker/start_api_server.py"]


def test_the_api_server_and_the_pods_use_the_same_store(pods: dict[str, Any]) -> None:
    (container,) = pods["stage"]["spec"]["containers"]
    store = {"name": "CARCLF_STORE", "value": "s3://carclf/store"}
    assert store in VALUES["env"]
    assert store in container["env"]
    assert "name: carclf-store" in VALUES["extraEnvFrom"]


CHAIN = """
import json, sys
import airflow.sdk
import car_retrain
from airflow.serialization.serialized_objects import DagSerialization
dag = car_retrain.car_retrain()
DagSerialization.to_dict(dag)
print(json.dumps([{task.task_id: task.executor_config for task in dag.tasks},
                  [name for name in sys.modules if name.split(".")[0] == "kubernetes"]]))
"""


def test_only_stages_that_train_or_predict_use_the_gpu_template(tmp_path: Path) -> None:
    template = {variable["name"]: variable["value"] for variable in VALUES["env"]}["CARCLF_GPU_POD_TEMPLATE"]
    environment = airflow_environment(tmp_path, CARCLF_GPU_POD_TEMPLATE=template)
    configs, imported = printed_json(CHAIN, environment)
    assert {name for name, config in configs.items() if config == {"pod_template_file": template}} == {
        "train_head", "fine_tune", "evaluate", "promote", "refit", "submit"}
    assert {name for name, config in configs.items() if not config} == {
        "download", "validate", "split", "score", "request_approval", "announce_champion"}
    assert imported == []
    assert template == f"{VALUES['volumeMounts'][0]['mountPath']}/gpu-stage.yaml"


def test_without_kubernetes_no_task_has_a_pod_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARCLF_GPU_POD_TEMPLATE", raising=False)
    assert [gpu_task_options(stage) for stage in sorted(GPU_STAGES)] == [{}] * len(GPU_STAGES)
