"""Settings: what an environment gives, what is derived, and what is refused."""

from __future__ import annotations

import pwd
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.environment import OTHER_VARIABLES, VARIABLES, SettingsError, read_settings, unknown_variables
from service.settings import AuthMode, Settings
from service.store.database import Database

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
#: How the documentation writes defaults that depend on other settings or have a unit.
DOCUMENTED = {
    "home": "`~/.rung`",
    "database_url": "SQLite in the home",
    "storage_root": "`storage` in the home",
    "data_root": "`data` in the home",
    "cache_root": "`cache` in the home",
    "data_root_shared": "false",
    "data_buckets": "none",
    "host": "`127.0.0.1`",
    "allowed_hosts": "its own host names",
    "service_url": "`http://RUNG_HOST:RUNG_PORT`",
    "public_url": "`RUNG_SERVICE_URL`",
    "secret_key": "none",
    "webhook_allowed_targets": "none",
    "auth": "`accounts`",
    "passwords": "true",
    "oidc_issuer": "none",
    "oidc_client_id": "none",
    "oidc_scopes": "`openid profile email`",
    "launcher": "`ray_jobs`",
    "ray_dashboard_url": "`http://127.0.0.1:8265`",
    "driver_python": "the service's",
    "driver_labels": "the head node",
    "largest_node": "none",
    "mlflow_tracking_uri": "`http://127.0.0.1:5000`",
    "mlflow_public_url": "the tracking URI",
    "log_format": "text",
    "mlflow_username": "none",
    "mlflow_password": "none",
    "mlflow_workspaces": "false",
    "keep_files_days": "forever",
    "reconcile": "true",
    "max_body_bytes": "128 KiB",
    "max_heartbeat_bytes": "4 MiB",
}


def test_they_come_from_the_environment(tmp_path: Path) -> None:
    settings = read_settings(
        {
            "RUNG_HOME": str(tmp_path),
            "RUNG_PORT": "9000",
            "rung_host": "0.0.0.0",
            "RUNG_ALLOWED_HOSTS": "rung.example",
            "RUNG_DATABASE_URL": "postgresql://rung@db/rung",
            "RUNG_MLFLOW_TRACKING_URI": "http://mlflow:5000",
            "RUNG_RECONCILE": "false",
            "PATH": "/bin",
        }
    )
    assert settings.storage_root == str(tmp_path / "storage")
    assert settings.service_url == "http://127.0.0.1:9000"
    assert settings.sqlalchemy_url == "postgresql+psycopg://rung@db/rung"
    assert settings.mlflow_public_url == "http://mlflow:5000"
    assert not settings.reconcile


def test_paths_default_to_the_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.sqlalchemy_url == f"sqlite:///{tmp_path / 'rung.db'}"
    assert settings.data_root == tmp_path / "data"


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "é", "a@b", "a:b", "%"])
def test_the_database_is_in_the_home_whatever_its_name(tmp_path: Path, name: str) -> None:
    settings = Settings(home=tmp_path / name)
    Database.open(settings.sqlalchemy_url).close()
    assert (tmp_path / name / "rung.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_a_home_folder_must_name_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)

    def unknown(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(
        SettingsError, match=r"^RUNG_HOME: there is no home folder for ~/.rung: set HOME, or give RUNG_"
    ):
        read_settings({})
    with pytest.raises(SettingsError, match="RUNG_DATA_ROOT: there is no home folder for ~/sets"):
        read_settings({"RUNG_HOME": str(tmp_path), "RUNG_DATA_ROOT": "~/sets"})
    assert read_settings({"RUNG_HOME": str(tmp_path)}).home == tmp_path


def test_the_environment_is_read_only_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNG_PORT", "9000")
    assert Settings(home=tmp_path).port == 8080


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| (`RUNG_.*?) \| (.*?) \| (.*?) \|$", OPERATING.read_text(), re.MULTILINE)
    documented: dict[str, str] = {}
    for variables, stated, _ in rows:
        defaults = stated.partition("; `rung up`")[0]
        names = [VARIABLES[name] for name in re.findall(r"`(RUNG_\w+)`", variables)]
        shared = defaults.split(", ") if len(names) > 1 else [defaults]
        if shared == ["`data`", "`cache` in the home"]:
            shared = ["`data` in the home", "`cache` in the home"]
        documented |= dict(zip(names, shared if len(shared) == len(names) else shared * len(names), strict=True))
    numbers = {name: f"{field.default:g}" for name, field in Settings.model_fields.items() if name not in DOCUMENTED}
    assert documented == DOCUMENTED | numbers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "rung.example"])
def test_an_open_service_is_for_this_machine_only(tmp_path: Path, host: str) -> None:
    given = {"RUNG_HOME": str(tmp_path), "RUNG_HOST": host, "RUNG_ALLOWED_HOSTS": "rung.example"}
    assert read_settings(given).auth is AuthMode.ACCOUNTS
    assert read_settings({**given, "RUNG_AUTH": "owner"}).auth is AuthMode.OWNER
    with pytest.raises(SettingsError, match=f"RUNG_AUTH: must be accounts or owner, because RUNG_HOST is {host}"):
        read_settings({**given, "RUNG_AUTH": "open"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_open_service_must_be_asked_for(tmp_path: Path, host: str) -> None:
    given = {"RUNG_HOME": str(tmp_path), "RUNG_HOST": host}
    assert read_settings(given).auth is AuthMode.ACCOUNTS
    assert read_settings({**given, "RUNG_AUTH": "open"}).auth is AuthMode.OPEN
    with pytest.raises(SettingsError, match="RUNG_AUTH: must be "):
        read_settings({**given, "RUNG_AUTH": "none"})


def test_a_provider_is_named_whole_and_cannot_be_replaced_on_the_way(tmp_path: Path) -> None:
    given = {"RUNG_HOME": str(tmp_path), "RUNG_OIDC_CLIENT_ID": "rung"}
    for issuer in ("http://id.example", "id.example", "ftp://id.example"):
        with pytest.raises(SettingsError, match="RUNG_OIDC_ISSUER: must begin with https://"):
            read_settings({**given, "RUNG_OIDC_ISSUER": issuer})
    for issuer in ("https://id.example/realm", "http://127.0.0.1:9/x"):
        assert read_settings({**given, "RUNG_OIDC_ISSUER": issuer}).oidc_issuer == issuer
        with pytest.raises(SettingsError, match="RUNG_OIDC_CLIENT_ID: must be given together with RUNG_OIDC_ISSUER"):
            read_settings({"RUNG_HOME": str(tmp_path), "RUNG_OIDC_ISSUER": issuer})
    with pytest.raises(SettingsError, match="RUNG_OIDC_CLIENT_ID"):
        read_settings(given)


def test_keys_and_targets_of_webhooks_are_read_strictly(tmp_path: Path) -> None:
    key = "c2VjcmV0" * 5 + "c2U="
    given = {"RUNG_HOME": str(tmp_path), "RUNG_SECRET_KEY": f"{key}, {key}"}
    assert read_settings(given).secret_keys == [key, key]
    assert read_settings({"RUNG_HOME": str(tmp_path)}).secret_keys == []
    for wrong in ("secret", key[:-4], f"{key},x", key.replace("c", "!")):
        with pytest.raises(SettingsError, match="RUNG_SECRET_KEY: must be 32 bytes in URL-safe base64") as refused:
            read_settings({**given, "RUNG_SECRET_KEY": wrong})
        assert wrong not in str(refused.value)
    with pytest.raises(SettingsError, match="RUNG_WEBHOOK_ALLOWED_TARGETS: must be host names"):
        read_settings({**given, "RUNG_WEBHOOK_ALLOWED_TARGETS": "https://chat.example"})
    assert read_settings({**given, "RUNG_SERVICE_URL": "http://rung:8080"}).public_url == "http://rung:8080"


def test_every_setting_has_a_description() -> None:
    descriptions = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert [name for name, text in descriptions.items() if not (text[:1].isupper() and text.endswith("."))] == []


def test_credentials_in_the_url_of_mlflow_are_taken_out_of_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="https://ada:se%40cret@mlflow:5000/ml")
    assert settings.mlflow_tracking_uri == settings.mlflow_public_url == "https://mlflow:5000/ml"
    assert (settings.mlflow_username, settings.mlflow_password) == ("ada", "se@cret")


def test_a_given_user_name_is_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://ada:one@mlflow", mlflow_username="bob")
    assert (settings.mlflow_tracking_uri, settings.mlflow_username) == ("http://mlflow", "bob")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "0x0", "::0", "0:0:0:0:0:0:0:0"])
@pytest.mark.parametrize("names", [None, "", " , "])
def test_a_service_on_all_addresses_must_know_its_names(host: str, names: str | None) -> None:
    given = {"RUNG_HOST": host} if names is None else {"RUNG_HOST": host, "RUNG_ALLOWED_HOSTS": names}
    with pytest.raises(SettingsError) as refused:
        read_settings(given)
    (problem,) = refused.value.problems
    assert problem.startswith("RUNG_ALLOWED_HOSTS: must list the host names")
    for allowed in ("*", "rung.example"):
        read_settings({**given, "RUNG_ALLOWED_HOSTS": allowed})


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "10.0.0.7", "rung.example"])
def test_a_service_on_one_address_knows_its_name(host: str) -> None:
    assert (host or "127.0.0.1") in read_settings({"RUNG_HOST": host}).hosts


@pytest.mark.parametrize("name", ["RUNG_RAY_DASHBOARD_URL", "RUNG_SERVICE_URL", "RUNG_MLFLOW_PUBLIC_URL"])
def test_a_url_without_its_scheme_is_refused(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: "head:8265"})
    assert refused.value.problems == [f"{name}: must begin with http:// or https://"]


@pytest.mark.parametrize("address", ["postgresql://ada:secret@db/mlflow", "/srv/mlruns", "databricks"])
def test_only_the_url_of_an_mlflow_server_is_accepted(address: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"RUNG_MLFLOW_TRACKING_URI": address})
    (problem,) = refused.value.problems
    assert problem.startswith("RUNG_MLFLOW_TRACKING_URI: must be the http:// or https:// URL of an MLflow server")
    assert "secret" not in problem


def test_a_storage_that_no_backend_has_is_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"RUNG_STORAGE_ROOT": "tape://ada:secret@host/rung"})
    (problem,) = refused.value.problems
    assert problem.startswith("RUNG_STORAGE_ROOT: the scheme of a storage address must be one of ")
    assert problem.endswith(" (got 'tape')")


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(home=tmp_path, storage_root="here").storage_root == str(tmp_path / "here")
    assert Settings(home=tmp_path, data_root=Path("here")).data_root == tmp_path / "here"


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("RUNG_HEARTBEAT", "RUNG_HEARTBEAT_S"),
        ("RUNG_DATAROOT", "RUNG_DATA_ROOT"),
        ("RUNG_MLFLOW_TRACKING_URL", "RUNG_MLFLOW_TRACKING_URI"),
        ("rung_prot", "RUNG_PORT"),
    ],
)
def test_a_misspelled_variable_is_refused_with_the_nearest_setting(misspelled: str, meant: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({misspelled: "1"})
    assert refused.value.problems == [f"{misspelled}: there is no such setting; did you mean {meant}?"]


def test_a_variable_that_resembles_no_setting_is_only_reported() -> None:
    environment = {"RUNG_COLOR": "blue", **dict.fromkeys([*OTHER_VARIABLES, "RUNG_TEST_DATA"], "x")}
    read_settings(environment)
    assert unknown_variables(environment) == {"RUNG_COLOR": None}


def test_a_keyword_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="heart_beat"):
        Settings.model_validate({"home": tmp_path, "heart_beat": 1})


@pytest.mark.parametrize(
    "address", ["http://[::1:8080", "http://", "https://:8080", "http://head:x", "http://head:65536", "http://head:0"]
)
@pytest.mark.parametrize("name", ["RUNG_SERVICE_URL", "RUNG_RAY_DASHBOARD_URL", "RUNG_MLFLOW_TRACKING_URI"])
def test_a_url_without_a_valid_host_and_port_is_refused(name: str, address: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: address})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: must have a host name or address, and a port")


@pytest.mark.parametrize("name", ["RUNG_LEASE_S", "RUNG_HEARTBEAT_S", "RUNG_KEEP_FILES_DAYS"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e300"])
def test_a_time_does_not_leave_the_calendar(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: "):
        read_settings({name: value})


def test_workspaces_need_teams_and_the_administrator_of_mlflow(tmp_path: Path) -> None:
    given = {"RUNG_HOME": str(tmp_path), "RUNG_MLFLOW_WORKSPACES": "true"}
    login = {"RUNG_MLFLOW_USERNAME": "rung-service", "RUNG_MLFLOW_PASSWORD": "secret"}
    assert read_settings({**given, **login}).mlflow_workspaces
    in_url = {"RUNG_MLFLOW_TRACKING_URI": "http://rung-service:secret@mlflow:5000"}
    assert read_settings({**given, **in_url}).mlflow_workspaces
    for auth in ("owner", "open"):
        with pytest.raises(SettingsError, match="RUNG_MLFLOW_WORKSPACES: must be false unless RUNG_AUTH is accounts"):
            read_settings({**given, **login, "RUNG_AUTH": auth})
    for missing in login:
        rest = {name: value for name, value in login.items() if name != missing}
        with pytest.raises(SettingsError, match="must be false without RUNG_MLFLOW_USERNAME and RUNG_MLFLOW_PASSWORD"):
            read_settings({**given, **rest})


@pytest.mark.parametrize("buckets", ["s3://rung", "s3://rung/team", "s3://pictures, s3://rung/team/x", "pictures"])
def test_the_storage_is_no_place_of_data_sets(tmp_path: Path, buckets: str) -> None:
    root = {"home": tmp_path, "storage_root": "s3://rung/team"}
    with pytest.raises(ValidationError, match=r"must not contain RUNG_STORAGE_ROOT|must be az://CONTAINER"):
        Settings(**root, data_buckets=buckets)
    allowed = Settings(**root, data_buckets=" s3://rung/teams/ ,gs://rung/team,az://rung").allowed_data_buckets
    assert allowed == ["s3://rung/teams", "gs://rung/team", "az://rung"]
