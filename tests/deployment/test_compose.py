"""docker/compose.yaml and the files beside it agree with each other, with the images and with Rung's settings."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from service.environment import read_settings
from tests.deployment import compose_file, environment
from tests.deployment.compose_file import (
    FOLDER,
    VARIABLE,
    MissingVariableError,
    Service,
    document,
    interpolated,
    services,
)
from tests.deployment.dockerfile import Image, images

#: Programs of other images, with what the tests of the files need to know of them.
OTHERS = {name: Image() for name in ("caddy", "postgres", "prom/prometheus", "grafana/grafana")}
LOGIN = ("USERNAME", "PASSWORD")
SECRET = re.compile("PASSWORD|TOKEN|SECRET")


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    return dict(environment.filled_in())


@pytest.fixture(scope="module")
def found(variables: dict[str, str]) -> dict[str, Service]:
    return services(variables, images() | OTHERS)


def test_the_file_is_valid_for_the_compose_specification(variables: dict[str, str]) -> None:
    text = yaml.safe_dump(interpolated(document(), variables))
    assert set(compose_spec.PyCompose.from_yaml(text).service_names()) == set(document()["services"])


def test_every_service_has_an_image_that_is_built_or_has_a_version(found: dict[str, Service]) -> None:
    assert found.keys() == document()["services"].keys()
    for one in found.values():
        assert one.target or re.search(r":v?\d+[.\d]*(-\w+)?$", one.image), one.name
        assert one.target in {"", *images()}


def test_the_example_of_the_environment_has_exactly_the_variables_of_the_file() -> None:
    used = {found[0] for found in VARIABLE.findall((FOLDER / "compose.yaml").read_text())}
    assert used == environment.example().keys() - {"COMPOSE_PROFILES"}


def test_no_secret_has_a_default(variables: dict[str, str]) -> None:
    secret = {name for name in environment.example() if SECRET.search(name)}
    assert len(secret) == 8
    assert [name for name in secret if environment.example()[name]] == []
    for name in sorted(secret):
        with pytest.raises(MissingVariableError, match=f"{name} must be set in docker/.env"):
            interpolated(document(), {**variables, name: ""})


def test_secrets_are_given_to_those_only_that_need_them(found: dict[str, Service], variables: dict[str, str]) -> None:
    def holders(name: str) -> set[str]:
        return {
            one.name for one in found.values() if any(variables[name] in value for value in one.environment.values())
        }

    ray = {"ray-head", "ray-worker", "ray-worker-gpu"}
    assert holders("POSTGRES_PASSWORD") == {"postgres"}
    assert holders("RUNG_DATABASE_PASSWORD") == {"postgres", "rung", "migrate", "tools"}
    assert holders("MLFLOW_DATABASE_PASSWORD") == {"postgres", "mlflow", "tools"}
    assert holders("RAY_AUTH_TOKEN") == {*ray, "rung", "tools"}
    assert holders("GRAFANA_PASSWORD") == {"grafana"}
    assert holders("MLFLOW_ADMIN_PASSWORD") == {"mlflow", "rung", "tools"}
    assert holders("MLFLOW_COOKIE_SECRET") == {"mlflow"}
    assert holders("RUNG_SECRET_KEY") == {"rung"}


def test_credentials_of_a_bucket_reach_those_that_use_the_storage(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storage.env").write_text("# of a test\nAWS_REGION=eu-central-1\n\nAWS_SECRET_ACCESS_KEY='a=b'\n")
    monkeypatch.setattr(compose_file, "FOLDER", tmp_path)
    found = services(variables, images() | OTHERS)
    having = {one.name for one in found.values() if one.environment.get("AWS_SECRET_ACCESS_KEY") == "a=b"}
    assert having == {"rung", "tools", "ray-head", "ray-worker", "ray-worker-gpu"}
    for name in (".gitignore", ".dockerignore"):
        assert "docker/storage.env" in (FOLDER.parent / name).read_text().splitlines()


def test_no_secret_is_in_a_command(found: dict[str, Service], variables: dict[str, str]) -> None:
    values = [variables[name] for name in variables if SECRET.search(name)]
    assert [one.name for one in found.values() if any(value in " ".join(one.command) for value in values)] == []


def test_only_the_proxy_has_ports_outside(found: dict[str, Service]) -> None:
    assert {one.name: one.ports for one in found.values() if one.ports} == {"proxy": ("80:80", "443:443")}


def test_who_reaches_whom(found: dict[str, Service]) -> None:
    members = {name: {one.name for one in found.values() if name in one.networks} for name in document()["networks"]}
    ray = {"ray-head", "ray-worker", "ray-worker-gpu"}
    assert members == {
        "web": {"proxy", "rung", "mlflow", "grafana"},
        "cluster": {*ray, "rung", "mlflow", "tools"},
        "database": {"postgres", "rung", "migrate", "mlflow", "tools"},
        "monitoring": {"prometheus", "grafana", "rung"},
    }
    networks = document()["networks"]
    assert [name for name in networks if (networks[name] or {}).get("internal")] == ["database", "monitoring"]


def test_every_container_is_hardened() -> None:
    for name, given in document()["services"].items():
        assert given["cap_drop"] == ["ALL"], name
        assert given["security_opt"] == ["no-new-privileges:true"], name


def test_the_service_and_the_nodes_see_the_same_folders(found: dict[str, Service]) -> None:
    wanted = found["rung"].mounts
    assert len(wanted) == 3
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        assert found[name].mounts == wanted
    assert set(wanted) < set(found["tools"].mounts)


def test_every_volume_is_used_and_every_file_exists(found: dict[str, Service]) -> None:
    mounts = [mount for one in found.values() for mount in one.mounts]
    assert {mount.source for mount in mounts if mount.is_volume} == set(document()["volumes"])
    files = [mount for mount in mounts if not mount.is_volume]
    assert len(files) == 8
    assert [mount for mount in files if not (FOLDER / mount.source).is_file() or not mount.read_only] == []


def test_services_wait_for_those_that_they_need(found: dict[str, Service]) -> None:
    for one in found.values():
        for needed, condition in one.needs.items():
            healthy = condition == "service_healthy" and found[needed].health is not None
            assert healthy or (condition, needed) == ("service_completed_successfully", "migrate"), one.name
    assert set(found["rung"].needs) == {"migrate", "ray-head", "mlflow"}


@pytest.mark.parametrize("name", ["rung", "migrate", "tools"])
def test_the_settings_of_the_service_are_valid(found: dict[str, Service], name: str) -> None:
    settings = read_settings(found[name].environment)
    assert settings.database_url.endswith("@postgres:5432/rung")


@pytest.mark.parametrize("name", ["rung", "tools"])
def test_the_service_has_accounts_and_believes_its_names(found: dict[str, Service], name: str) -> None:
    settings = read_settings(found[name].environment)
    assert settings.auth == "accounts"
    assert settings.hosts >= {"rung.example.com", "rung"}
    assert settings.max_connections_per_address == settings.max_connections


def test_mlflow_asks_the_service_who_may_do_what_and_keeps_its_users_apart_from_the_artifacts(
    found: dict[str, Service],
) -> None:
    mlflow, settings = found["mlflow"], read_settings(found["rung"].environment)
    assert settings.mlflow_workspaces
    assert mlflow.environment["RUNG_SERVICE_URL"] == settings.service_url
    administrator = {f"MLFLOW_AUTH_ADMIN_{name}": mlflow.environment[f"MLFLOW_AUTH_ADMIN_{name}"] for name in LOGIN}
    assert list(administrator.values()) == [settings.mlflow_username, settings.mlflow_password]
    assert {"--app-name=basic-auth", "--enable-workspaces"} < set(mlflow.command)
    config = configparser.ConfigParser()
    config.read(FOLDER / "mlflow_auth.ini")
    users = Path(config["mlflow"]["database_uri"].removeprefix("sqlite:///"))
    artifacts = next(word.partition("=")[2] for word in mlflow.command if word.startswith("--artifacts-destination"))
    volumes = {mount.target for mount in mlflow.mounts if mount.is_volume}
    assert {str(users.parent), artifacts} == volumes
    assert not users.is_relative_to(artifacts)
    assert config["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    module, _, function = config["mlflow"]["authorization_function"].partition(":")
    spec = importlib.util.find_spec(module)  # it needs an MLflow server to be imported
    assert spec
    assert f"def {function}()" in Path(str(spec.origin)).read_text()


def test_the_service_can_post_to_webhooks(found: dict[str, Service]) -> None:
    settings = read_settings(found["rung"].environment)
    assert len(settings.secret_keys) == 1
    assert settings.public_url == "https://rung.example.com"
    assert [name for name in found["rung"].networks if not (document()["networks"][name] or {}).get("internal")]


def test_addresses_inside_are_those_of_services_on_a_common_network(found: dict[str, Service]) -> None:
    for one in found.values():
        text = " ".join((*one.environment.values(), *one.command))
        for name in re.findall(r"(?:@|//|=)([a-z-]+):\d+", text):
            assert set(one.networks) & set(found[name].networks), f"{one.name} does not reach {name}"


def test_the_proxy_and_the_monitoring_name_services_that_they_reach(found: dict[str, Service]) -> None:
    files = {
        "proxy": "Caddyfile",
        "prometheus": "monitoring/prometheus.yml",
        "grafana": "monitoring/grafana/datasources.yml",
    }
    for client, file in files.items():
        text = re.sub(r"#.*", "", (FOLDER / file).read_text())
        names = set(re.findall(r"\b([a-z]+):\d{4}", text))
        assert names, file
        for name in names:
            assert set(found[client].networks) & set(found[name].networks), f"{client} does not reach {name}"


@pytest.mark.parametrize("tls", ["", "local_certs"])
def test_caddy_accepts_its_file(variables: dict[str, str], tls: str) -> None:
    command = [str(environment.CADDY), "validate", "--config", str(FOLDER / "Caddyfile"), "--adapter", "caddyfile"]
    given = {**os.environ, **variables, "CADDY_TLS": tls}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    unformatted = subprocess.run(
        [environment.CADDY, "fmt", FOLDER / "Caddyfile"], capture_output=True, text=True, check=False
    )
    assert unformatted.stdout == (FOLDER / "Caddyfile").read_text()


def test_grafana_gets_a_data_source_of_the_kind_that_the_dashboard_asks_for() -> None:
    provisioned: dict[str, Any] = yaml.safe_load((FOLDER / "monitoring/grafana/datasources.yml").read_text())
    assert [one["type"] for one in provisioned["datasources"] if one["isDefault"]] == ["prometheus"]
    [provider] = yaml.safe_load((FOLDER / "monitoring/grafana/dashboards.yml").read_text())["providers"]
    mounted = [
        one.rpartition(":")[0] for one in document()["services"]["grafana"]["volumes"] if "dashboard.json" in one
    ]
    assert mounted[0].partition(":")[2].startswith(provider["options"]["path"])


def test_a_field_that_nothing_here_understands_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = document()
    changed["services"]["rung"]["pid"] = "host"
    monkeypatch.setattr("tests.deployment.compose_file.document", lambda: changed)
    with pytest.raises(ValueError, match=r"services\.rung must have fields that this module knows \(got pid\)"):
        services(environment.filled_in(), images() | OTHERS)
