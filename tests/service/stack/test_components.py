"""The components of a stack: which settings of the caller reach them, and when each is ready."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import stack
from service.environment import VARIABLES, read_settings
from service.identity.secret_box import SecretBox
from service.settings import Settings
from service.stack import components
from service.stack.components import OWNED

OK, UNREACHABLE = {"ok": True, "why": ""}, {"ok": False, "why": "the service has not contacted Ray yet"}
#: A valid value, other than the default, of each setting that a stack forwards.
FORWARDED = {
    "auth": "open",
    "public_url": "https://rung.example",
    "webhook_allowed_targets": "chat.example",
    "log_format": "json",
    "data_root": "/sets",
    "data_buckets": "s3://pictures/sets",
    "cache_root": "/prepared",
    "allowed_hosts": "rung.example",
    "ray_timeout_s": "11",
    "ray_submit_timeout_s": "61",
    "largest_node": "cpus=8,gpus=4",
    "warm_workers": "1",
    "mlflow_timeout_s": "11",
    "heartbeat_s": "0.5",
    "driver_lost_s": "61",
    "driver_start_s": "181",
    "stop_grace_s": "121",
    "max_attempts": "4",
    "retry_backoff_s": "6",
    "keep_files_days": "7",
    "reconcile_s": "3",
    "lease_s": "16",
    "max_drivers": "33",
    "driver_memory_mb": "600",
    "driver_cpus": "0.5",
    "driver_labels": "role=driver",
    "park_s": "601",
    "max_requests": "65",
    "max_connections": "501",
    "max_connections_per_address": "65",
    "request_timeout_s": "31",
    "max_body_bytes": "2048",
    "max_heartbeat_bytes": "4096",
}


def environment_of(service: stack.Stack) -> Mapping[str, str]:
    return service.components()["service"].environment


def test_a_stack_forwards_every_setting_that_it_does_not_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert FORWARDED.keys() | OWNED == Settings.model_fields.keys()
    for name, value in FORWARDED.items():
        monkeypatch.setenv(f"RUNG_{name.upper()}", value)
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    settings = read_settings(environment_of(a_stack))
    expected = Settings.model_validate({"home": tmp_path, **FORWARDED})
    assert settings.model_dump(include=set(FORWARDED)) == expected.model_dump(include=set(FORWARDED))
    assert a_stack.ignored == ()


def test_no_setting_of_another_service_gets_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owned = {variable for variable, name in VARIABLES.items() if name in OWNED}
    others = {"RUNG_URL", "RUNG_COLOR", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"}
    for variable in owned | others:
        monkeypatch.setenv(variable, "elsewhere")
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    assert "elsewhere" not in environment_of(a_stack).values()
    assert set(a_stack.ignored) == owned - {"RUNG_HOME"}


def test_variables_in_lower_case_are_the_settings_that_the_service_would_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("rung_database_url", "elsewhere")
    monkeypatch.setenv("Rung_Lease_S", "16")
    monkeypatch.setenv("rung_color", "elsewhere")
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    assert "elsewhere" not in environment_of(a_stack).values()
    assert a_stack.ignored == ("rung_database_url",)
    assert read_settings(environment_of(a_stack)).lease_s == 16


def test_relative_paths_stay_those_of_the_caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNG_DATA_ROOT", "sets")
    monkeypatch.setenv("RUNG_CACHE_ROOT", "prepared")
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    environment = environment_of(a_stack)
    assert environment["RUNG_DATA_ROOT"] == a_stack.addresses.data_root == str(tmp_path / "sets")
    assert environment["RUNG_CACHE_ROOT"] == str(tmp_path / "prepared")


def test_mlflow_has_no_key_to_ray(tmp_path: Path) -> None:
    parts = stack.Stack(stack.Options(home=tmp_path)).components()
    assert {name for name, part in parts.items() if "RAY_AUTH_TOKEN" in part.environment} == {"ray", "service"}


def test_only_mlflow_and_the_service_know_the_password_of_mlflow(tmp_path: Path) -> None:
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    password, parts = (tmp_path / "mlflow_password").read_text() if a_stack.mlflow else "", a_stack.components()
    assert {name for name, part in parts.items() if password in part.environment.values()} == {"mlflow", "service"}
    assert a_stack.mlflow == f"http://rung:{password}@{a_stack.addresses.mlflow.removeprefix('http://')}"
    settings = read_settings(parts["service"].environment)
    assert (settings.mlflow_username, settings.mlflow_password) == ("rung", password)
    assert not any(password in word for part in parts.values() for word in part.command), "others see commands"


def test_only_the_service_has_the_key_for_secrets_in_its_database(tmp_path: Path) -> None:
    parts = stack.Stack(stack.Options(home=tmp_path)).components()
    path = tmp_path / "secret_key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {name for name, part in parts.items() if path.read_text() in part.environment.values()} == {"service"}
    assert SecretBox(read_settings(parts["service"].environment).secret_keys).seal("x")


def test_an_open_stack_has_an_open_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNG_AUTH", "open")
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    parts = a_stack.components()
    assert a_stack.mlflow == a_stack.addresses.mlflow
    assert "--app-name" not in parts["mlflow"].command
    assert read_settings(parts["service"].environment).mlflow_password is None


#: Variables of other programs, each of which stopped a part of a stack.
HOSTILE = {
    "WEB_CONCURRENCY": "4",
    "UVICORN_PORT": "1",
    "UVICORN_RELOAD": "1",
    "GUNICORN_CMD_ARGS": "--bad",
    "FLASK_DEBUG": "1",
    "FORWARDED_ALLOW_IPS": "*",
    "MLFLOW_TRACKING_URI": "http://192.0.2.1",
    "_MLFLOW_SERVER_FILE_STORE": "sqlite:///other.db",
    "RAY_ADDRESS": "192.0.2.1:6379",
    "TUNE_RESULT_DIR": "/nowhere",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "PYTHONINSPECT": "1",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
    "SSL_CERT_DIR": "/nowhere",
    "REQUESTS_CA_BUNDLE": "/nowhere/ca.pem",
    "CURL_CA_BUNDLE": "/nowhere/ca.pem",
}


def test_no_variable_of_another_program_gets_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    a_stack = stack.Stack(stack.Options(home=tmp_path))
    for part in a_stack.components().values():
        assert {name for name in HOSTILE if part.environment.get(name) == HOSTILE[name]} == set(), part.name
    assert a_stack.missing == ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    monkeypatch.setenv("SSL_CERT_FILE", __file__)
    assert environment_of(stack.Stack(stack.Options(home=tmp_path)))["SSL_CERT_FILE"] == __file__


def test_modules_of_the_caller_are_found_from_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "mine:/theirs:")
    environment = environment_of(stack.Stack(stack.Options(home=tmp_path)))
    assert environment["PYTHONPATH"] == f"{tmp_path}/mine:/theirs:{tmp_path}"


def test_a_user_whom_the_system_does_not_know_has_a_home_and_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(number: int) -> object:
        raise KeyError(number)

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    environment = environment_of(stack.Stack(stack.Options(home=tmp_path)))
    assert (environment["HOME"], environment["USER"]) == (str(tmp_path), "rung")
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USER", "ada")
    environment = environment_of(stack.Stack(stack.Options(home=tmp_path)))
    assert (environment["HOME"], environment["USER"]) == ("/somewhere", "ada")


def test_no_path_of_the_home_is_part_of_a_url(tmp_path: Path) -> None:
    (home := tmp_path / "a?b %20#c").mkdir()
    parts = stack.Stack(stack.Options(home=home)).components()
    assert "a?b" not in "".join(parts["mlflow"].command + parts["ray"].command)


def test_ray_takes_any_port_for_its_workers(tmp_path: Path) -> None:
    command = stack.Stack(stack.Options(home=tmp_path)).components()["ray"].command
    assert {"--min-worker-port=0", "--max-worker-port=0"} <= set(command)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"ready": True, "ray": UNREACHABLE, "mlflow": OK}, "ray"),
        ({"ready": True, "ray": OK, "mlflow": UNREACHABLE}, "mlflow"),
        ({"ready": False}, None),
        ([], None),
    ],
)
def test_the_part_that_the_service_waits_for(answer: Any, cause: str | None) -> None:
    assert components.misses(httpx.Response(503, json=answer)) == cause
    assert components.misses(httpx.Response(502, text="<html>")) is None


def test_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    environment = environment_of(stack.Stack(stack.Options(home=tmp_path)))
    assert environment["NO_PROXY"] == environment["no_proxy"] == "example.org,localhost,127.0.0.1"


@pytest.mark.parametrize(
    ("status", "changes", "ready"),
    [
        (200, {}, True),
        (200, {"ray": UNREACHABLE}, False),
        (200, {"mlflow": UNREACHABLE}, False),
        (503, {"ready": False}, False),
    ],
)
def test_the_service_is_ready_when_it_sees_ray_and_mlflow(status: int, changes: dict[str, Any], ready: bool) -> None:
    answer = {"ready": True, "database": OK, "ray": OK, "mlflow": OK, **changes}
    assert components.sees_all(httpx.Response(status, json=answer)) is ready


def test_the_service_is_ready_when_it_sees_a_node() -> None:
    assert not components.sees_a_node(httpx.Response(200, json={"nodes": []}))
    assert components.sees_a_node(httpx.Response(200, json={"nodes": [{"name": "a"}]}))


def test_a_stack_on_all_addresses_must_know_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(stack.StackError, match="RUNG_ALLOWED_HOSTS: must list the host names"):
        stack.Stack(stack.Options(home=tmp_path, host="0.0.0.0"))
    monkeypatch.setenv("RUNG_ALLOWED_HOSTS", "rung.example")
    a_stack = stack.Stack(stack.Options(home=tmp_path, host="0.0.0.0"))
    assert environment_of(a_stack)["RUNG_ALLOWED_HOSTS"] == "rung.example"
