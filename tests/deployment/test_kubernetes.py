"""The manifests of docker/kubernetes are valid for Kubernetes' schemas, and what they name exists.

The schema of a RayCluster is in no package; of it, its pods are validated as Kubernetes' own, and its other fields are
compared with those that KubeRay has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import ChainMap
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.environment import read_settings
from service.settings import Settings
from tests.deployment.compose_file import FOLDER, document
from tests.deployment.dockerfile import images
from tests.deployment.environment import filled_in

KUBERNETES = FOLDER / "kubernetes"
#: The oldest and the newest that the manifests are for.
VERSIONS = ("1.30", "1.37")
#: The fields of KubeRay's RayCluster (ray.io/v1) that are used here.
RAY_CLUSTER = {
    "rayVersion",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = {*HEAD_GROUP, "groupName", "replicas", "minReplicas", "maxReplicas"}


def kustomization() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return read


def manifests() -> list[dict[str, Any]]:
    texts = ((KUBERNETES / name).read_text() for name in kustomization()["resources"])
    return [document for text in texts for document in yaml.safe_load_all(text)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every template of a pod, with a name for messages."""
    for one in manifests():
        if one["kind"] in {"Deployment", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]
        elif one["kind"] == "RayCluster":
            yield "ray head", one["spec"]["headGroupSpec"]["template"]
            yield from ((f"ray {group['groupName']}", group["template"]) for group in one["spec"]["workerGroupSpecs"])


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every container, with a name for messages and the specification of its pod."""
    for name, template in pods():
        yield from ((f"{name}/{one['name']}", one, template["spec"]) for one in template["spec"]["containers"])


def settings_of(container: str) -> Settings:
    """What a container of the service reads, with values for its secrets. Raises SettingsError."""
    secrets = {
        "RUNG_DATABASE_URL": "postgresql://rung:x@postgres/rung",
        "RAY_AUTH_TOKEN": "x",
        "RUNG_MLFLOW_PASSWORD": "x",
        "RUNG_SECRET_KEY": filled_in()["RUNG_SECRET_KEY"],
    }
    [given] = [one for name, one, _ in containers() if name == container]
    values = {one["name"]: one.get("value") or secrets[one["name"]] for one in given["env"]}
    maps = [of_kind("ConfigMap")[one["configMapRef"]["name"]]["data"] for one in given.get("envFrom", [])]
    return read_settings({**images()["service"].environment, **dict(ChainMap(*maps)), **values})


def test_the_migration_needs_the_database_only() -> None:
    assert settings_of("rung-migrate/migrate").database_url == settings_of("rung/rung").database_url


def test_the_service_knows_what_the_autoscaler_can_add() -> None:
    groups = of_kind("RayCluster")["rung"]["spec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    sizes = [(float(one["cpu"]), float(one.get("nvidia.com/gpu", 0))) for one in limits]
    settings = settings_of("rung/rung")
    assert [(kind.cpus, kind.gpus) for kind in settings.node_kinds] == sizes


def named(value: Any, field: str) -> Iterator[Any]:
    """All values of a field, at any depth."""
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key == field)
        for one in value.values():
            yield from named(one, field)
    elif isinstance(value, list):
        for one in value:
            yield from named(one, field)


def as_job(name: str, template: dict[str, Any]) -> dict[str, Any]:
    """A pod of a RayCluster as one that Kubernetes' schemas know."""
    spec = {"restartPolicy": "Never", **template["spec"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name.replace(" ", "-")},
        "spec": {"template": {**template, "spec": spec}},
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    own = [one for one in manifests() if one["kind"] != "RayCluster"]
    assert len(own) >= 15
    for one in [*own, *(as_job(name, template) for name, template in pods())]:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_refused() -> None:
    [service] = [one for one in manifests() if one["kind"] == "Service" and one["metadata"]["name"] == "rung"]
    service["spec"]["port"] = 8080
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


def test_every_file_is_part_of_the_kustomization() -> None:
    listed = {*kustomization()["resources"], *kustomization()["configurations"], "kustomization.yaml"}
    assert {path.name for path in KUBERNETES.iterdir()} == listed


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_renders_it_with_the_images_of_the_registry() -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"]["namespace"] for one in rendered} == {"rung"}
    assert len(rendered) == len(manifests())
    assert {image.partition("/")[0] for image in named(rendered, "image")} == {"registry.example.com"}


def test_the_images_are_those_of_the_dockerfile_and_all_have_a_registry_and_a_version() -> None:
    used = {one["image"] for _, one, _ in containers()}
    assert used == {one["name"] for one in kustomization()["images"]}
    assert {name.removeprefix("rung-") for name in used} < images().keys()
    version = re.search(r'^version = "([\d.]+)', (FOLDER.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {one["newTag"] for one in kustomization()["images"]} == {version[1].rstrip(".")}


def test_the_version_of_ray_is_that_of_the_images() -> None:
    [ray] = re.findall(r"^ray==(.+)$", (FOLDER.parent / "constraints.txt").read_text(), re.MULTILINE)
    [cluster] = of_kind("RayCluster").values()
    assert cluster["spec"]["rayVersion"] == ray


def test_a_ray_cluster_has_only_fields_that_kuberay_has() -> None:
    [cluster] = of_kind("RayCluster").values()
    assert cluster["apiVersion"] == "ray.io/v1"
    assert cluster["spec"].keys() == RAY_CLUSTER
    assert cluster["spec"]["headGroupSpec"].keys() == HEAD_GROUP
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group.keys() == WORKER_GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for parameters in named(cluster, "rayStartParams"):
        assert all(isinstance(value, str) for value in parameters.values())


def test_every_secret_and_every_key_is_in_the_commands_of_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    wanted = {(one["name"], one["key"]) for one in named(manifests(), "secretKeyRef")}
    [cluster] = of_kind("RayCluster").values()
    wanted.add((cluster["spec"]["authOptions"]["secretName"], "auth_token"))
    commands = re.findall(r"kubectl .*create secret generic (\S+) (.*)", readme.replace("\\\n", ""))
    made = {(name, key) for name, rest in commands for key in re.findall(r"--from-literal=(\w+)=", rest)}
    assert wanted == made
    assert "create secret tls rung-tls" in readme


def test_every_config_map_and_claim_that_is_named_exists() -> None:
    mounted = {one["name"] for one in named(manifests(), "configMap")}
    assert {one["name"] for one in named(manifests(), "configMapRef")} | mounted == of_kind("ConfigMap").keys()
    claims = {one["claimName"] for one in named(manifests(), "persistentVolumeClaim")}
    assert claims == of_kind("PersistentVolumeClaim").keys()


def test_a_container_mounts_the_volumes_of_its_pod_and_its_probes_ask_its_ports() -> None:
    for name, container, pod in containers():
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}, name
        ports = {one["name"] for one in container.get("ports", [])}
        assert {one["port"] for one in named(container, "httpGet")} <= ports, name


def test_a_service_leads_to_the_pods_of_its_deployment() -> None:
    for name, service in of_kind("Service").items():
        template = of_kind("Deployment")[name]["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for one in template["spec"]["containers"] for port in one["ports"]}
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports
    assert {one["name"] for one in named(of_kind("Ingress"), "service")} <= of_kind("Service").keys()


@pytest.mark.parametrize("kind", ["NetworkPolicy", "PodDisruptionBudget"])
def test_a_selector_finds_pods(kind: str) -> None:
    labels = [template["metadata"]["labels"].items() for _, template in pods()]
    selectors = [*named(of_kind(kind), "podSelector"), *named(of_kind(kind), "selector")]
    assert selectors
    for selector in selectors:
        wanted = selector.get("matchLabels", {})
        own = {name: value for name, value in wanted.items() if not name.startswith("ray.io/")}  # KubeRay sets these
        assert any(own.items() <= one for one in labels), selector


def test_the_ports_of_the_network_policies_are_ports_of_containers_or_well_known() -> None:
    served = {port["containerPort"] for _, one, _ in containers() for port in one.get("ports", [])}
    well_known = {53, 443, 6443}
    ports = {
        port["port"] for one in of_kind("NetworkPolicy").values() for ports in named(one, "ports") for port in ports
    }
    assert ports <= served | well_known


def test_no_pod_gets_variables_that_kubernetes_makes_of_services() -> None:
    """Of the service `rung` it makes RUNG_PORT=tcp://..., which is no port."""
    assert [name for name, template in pods() if template["spec"].get("enableServiceLinks") is not False] == []


def test_every_container_is_hardened_and_no_pod_runs_as_root() -> None:
    for name, template in pods():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert str(template["spec"]["securityContext"]["runAsUser"]) == images()["service"].user.partition(":")[0]
    for name, container, _ in containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"].keys() == {"requests", "limits"}, name


def test_the_settings_are_valid_and_agree_with_the_services() -> None:
    settings = settings_of("rung/rung")
    assert settings.auth == "accounts"
    [ingress] = of_kind("Ingress").values()
    people = {f"https://{rule['host']}" for rule in ingress["spec"]["rules"]}
    assert people == {settings.public_url, settings.mlflow_public_url}
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == {
        one for tls in ingress["spec"]["tls"] for one in tls["hosts"]
    }
    assert settings.public_url.removeprefix("https://") in settings.hosts
    for address in (settings.service_url, settings.mlflow_tracking_uri):
        name, _, port = address.removeprefix("http://").partition(":")
        assert int(port) in {one["port"] for one in of_kind("Service")[name]["spec"]["ports"]}
    [cluster] = of_kind("RayCluster")
    assert settings.ray_dashboard_url == f"http://{cluster}-head-svc:8265"


def test_mlflow_is_that_of_the_compose_file() -> None:
    compose = document()["services"]["mlflow"]
    [mlflow] = [one for name, one, _ in containers() if name == "mlflow/mlflow"]
    hosts = "--allowed-hosts="
    assert [word for word in mlflow["command"] if not word.startswith(hosts)] == [
        word for word in compose["command"] if not word.startswith(hosts)
    ]
    assert {one["name"] for one in mlflow["env"]} == compose["environment"].keys()
    given = {one["name"]: one["value"] for one in mlflow["env"] if "value" in one}
    settings = of_kind("ConfigMap")["mlflow-settings"]["data"]
    assert settings == {"mlflow_auth.ini": (FOLDER / "mlflow_auth.ini").read_text()}
    mounts = {one["name"]: one["mountPath"] for one in mlflow["volumeMounts"]}
    assert given.pop("MLFLOW_AUTH_CONFIG_PATH") == f"{mounts['settings']}/mlflow_auth.ini"
    assert given == {name: compose["environment"][name] for name in given}
    service = of_kind("ConfigMap")["rung-settings"]["data"]
    assert given["MLFLOW_AUTH_ADMIN_USERNAME"] == service["RUNG_MLFLOW_USERNAME"]
    [named_hosts] = [word.removeprefix(hosts).split(",") for word in mlflow["command"] if word.startswith(hosts)]
    people = service["RUNG_MLFLOW_PUBLIC_URL"].removeprefix("https://")
    assert {service["RUNG_MLFLOW_TRACKING_URI"].removeprefix("http://"), people} < set(named_hosts)
    probes = {one["value"] for asked in named(mlflow, "httpHeaders") for one in asked}
    assert probes < set(named_hosts)


def test_probes_use_a_host_name_that_the_service_accepts() -> None:
    """A probe without a Host header has the address of the pod, which is answered 400."""
    [rung] = [one for name, one, _ in containers() if name == "rung/rung"]
    asked = {one["path"]: one["httpHeaders"] for one in named(rung, "httpGet")}
    host = [{"name": "Host", "value": "localhost"}]
    assert asked == {"/healthz": host, "/readyz": host}


def test_the_folders_of_the_settings_are_mounted_where_they_are_used() -> None:
    given = of_kind("ConfigMap")["rung-settings"]
    roots = {given["data"][name] for name in ("RUNG_STORAGE_ROOT", "RUNG_DATA_ROOT", "RUNG_CACHE_ROOT")}
    for name, container, _ in containers():
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        if name.startswith("ray"):
            assert roots <= mounted, name
    [rung] = [one for name, one, _ in containers() if name == "rung/rung"]
    assert roots - {given["data"]["RUNG_CACHE_ROOT"]} <= {one["mountPath"] for one in rung["volumeMounts"]}
