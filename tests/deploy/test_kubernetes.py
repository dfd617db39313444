"""Kubernetes: what the provider's own code makes of the pod templates, and which tasks get which."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
SECRETS = ("DATABASE", "SQL_ALCHEMY", "FERNET", "JWT", "SECRET_KEY", "PASSWORD")
MADE = """
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


def python(code: str, *arguments: str, **environment: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CARCLF"))}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=kept | environment, capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The pods as the KubernetesExecutor would make them, with the chart's values as its configuration."""
    own = VALUES["config"]["kubernetes_executor"]
    settings = {f"AIRFLOW__KUBERNETES_EXECUTOR__{name.upper()}": str(value) for name, value in own.items()}
    paths = {name: str(FOLDER / "pods" / f"{name}.yaml") for name in ("stage", "gpu-stage")}
    made = python(MADE, *paths.values(), AIRFLOW_HOME=str(tmp_path_factory.mktemp("airflow")), **settings)
    return {name: made[path] for name, path in paths.items()}


def test_only_the_gpu_template_asks_for_a_gpu_and_the_two_are_alike_besides(pods) -> None:
    plain, gpu = (pods[name]["spec"]["containers"][0].pop("resources") for name in ("stage", "gpu-stage"))
    assert gpu["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in {**plain["limits"], **plain["requests"]}
    assert plain["limits"]["memory"] and gpu["limits"]["memory"]
    assert pods["gpu-stage"]["spec"].pop("tolerations")
    for pod in pods.values():
        pod["metadata"]["labels"].pop("app.kubernetes.io/component")
    assert pods["gpu-stage"] == pods["stage"]


def test_a_pod_runs_the_workers_image_with_the_tasks_command(pods) -> None:
    for pod in pods.values():
        (container,) = pod["spec"]["containers"]
        assert container["image"] == "carclf-worker:latest"
        assert container["args"] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
        assert pod["metadata"]["labels"]["dag_id"] == "car_retrain"


def test_a_pod_has_no_root_no_rights_and_none_of_airflows_secrets(pods) -> None:
    for pod in pods.values():
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 50000
        assert spec["automountServiceAccountToken"] is False and spec["restartPolicy"] == "Never"
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        names = [variable["name"] for variable in container["env"]]
        assert [name for name in names if any(secret in name for secret in SECRETS)] == []
        assert container["envFrom"] == [{"secretRef": {"name": "carclf-store"}}]
        named = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(named)
        assert [name for name, volume in named.items() if "secret" in volume] == ["kaggle"]


def test_the_charts_values_hold_no_secret_but_their_names() -> None:
    assert VALUES["data"] == {"metadataSecretName": "carclf-airflow"}
    assert {VALUES[name] for name in ("fernetKeySecretName", "jwtSecretName", "apiSecretKeySecretName")} == {
        "carclf-airflow"}
    assert {"name": "AIRFLOW_ADMIN_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "carclf-admin", "key": "password"}}
            } in VALUES["apiServer"]["env"]


def test_only_the_api_server_is_given_the_pages_and_it_knows_the_pods_store(pods) -> None:
    pages = {"name": "AIRFLOW__CORE__PLUGINS_FOLDER", "value": "/opt/carclf/plugins"}
    assert pages in VALUES["apiServer"]["env"] and (ROOT / "carclf_airflow/plugin.py").is_file()
    (container,) = pods["stage"]["spec"]["containers"]
    assert pages["name"] not in [variable["name"] for variable in VALUES["env"] + container["env"]]
    known = {"name": "CARCLF_STORE", "value": "s3://carclf/store"}
    assert known in VALUES["env"] and known in container["env"]
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


def test_what_trains_or_answers_with_a_network_gets_the_gpu_template_and_nothing_else_does(tmp_path: Path) -> None:
    template = {variable["name"]: variable["value"] for variable in VALUES["env"]}["CARCLF_GPU_POD_TEMPLATE"]
    folder = {"PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}", "AIRFLOW_HOME": str(tmp_path)}
    configs, imported = python(CHAIN, **folder, CARCLF_GPU_POD_TEMPLATE=template)
    assert {name for name, found in configs.items() if found == {"pod_template_file": template}} == {
        "train_head", "fine_tune", "evaluate", "promote", "approval.promote", "submit"}
    assert {name for name, found in configs.items() if not found} == {
        "download", "validate", "split", "score", "approval.ask"}
    assert imported == []
    assert template == f"{VALUES['volumeMounts'][0]['mountPath']}/gpu-stage.yaml"


def test_without_kubernetes_no_task_is_given_a_pod() -> None:
    code = "import carclf_airflow.pods as p, json; print(json.dumps([p.pod_of(stage) for stage in sorted(p.GPU_STAGES)]))"
    assert python(code, PYTHONPATH=str(ROOT / "dags")) == [{}] * 5
