"""A backup restores everything after everything was destroyed, also on PostgreSQL and from `rung up` to a team.

The installation is a home that version 0.1 wrote, with a completed experiment, one that is paused, and a model.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import httpx
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from search_spaces.experiment import ExperimentSpec
from service.app import create_app
from service.backup import installation, making, mlflow_database, restoring, sets, tables, trees
from service.backup.__main__ import main
from service.backup.errors import BackupError
from service.backup.installation import Installation
from service.cli import app
from service.domain import experiments
from service.settings import AuthMode, Settings
from service.stack.embedded import Options, running
from service.stack.home import StackError, locked
from service.store.database import Database
from service.store.leases import acquire
from tests.support.memory_launcher import MemoryLauncher
from tests.support.postgres import Postgres
from tests.support.server import serving

STORED = Path(__file__).parents[2] / "e2e" / "stored"
EXPERIMENTS = "/api/v1/experiments"


class Done(NamedTuple):
    """What came of a program."""

    exit_code: int
    output: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """Where an installation is. Without a `database_url` it is a home of `rung up`."""

    home: Path
    database_url: str = ""
    mlflow_url: str = ""

    @property
    def storage(self) -> Path:
        return self.home / "storage"

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def environment(self) -> dict[str, str]:
        if not self.database_url:
            return {"RUNG_HOME": str(self.home)}
        return {
            "RUNG_HOME": str(self.home),
            "RUNG_DATABASE_URL": self.database_url,
            "RUNG_STORAGE_ROOT": str(self.storage),
            "MLFLOW_BACKEND_STORE_URI": self.mlflow_url,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.artifacts),
        }

    @property
    def settings(self) -> Settings:
        given = {"database_url": self.database_url} if self.database_url else {}
        return Settings(
            home=self.home, auth=AuthMode.OPEN, reconcile=False, mlflow_tracking_uri="http://127.0.0.1:9", **given
        )

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_url or f"sqlite:///{self.home / 'mlflow.db'}"

    def run(self, *arguments: str) -> Result:
        """The command, which starts a process."""
        return CliRunner(env=self.environment).invoke(app, list(arguments))

    def do(self, command: str, folder: str) -> Done:
        """What that process does, in this one: its start takes longer than the rest."""
        request = {
            "action": {"backup": "make"}.get(command, command),
            "folder": folder,
            "home": str(self.home),
            "mlflow_database": self.mlflow_url or None,
            "mlflow_artifacts": str(self.artifacts) if self.mlflow_url else None,
        }
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            mock.patch.object(sys, "stdin", io.StringIO(json.dumps(request))),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            return Done(main(), output.getvalue() + errors.getvalue(), errors.getvalue())


@pytest.fixture
def home(tmp_path: Path) -> Place:
    """A home whose database and storage are those of today."""
    folder = tmp_path / "home"
    with tarfile.open(STORED / "version-0.1-home.tar.xz") as stored:
        stored.extractall(folder, filter="data")
    place = Place(folder)
    with serving(create_app(place.settings, MemoryLauncher())):
        return place


@pytest.fixture
def team(tmp_path: Path, postgres: Postgres) -> Iterator[Place]:
    """A place for an installation on PostgreSQL, where nothing is yet."""
    names = [postgres.create() for _ in range(2)]
    database, mlflow = (postgres.url(name).replace("postgresql://", "postgresql+psycopg://") for name in names)
    yield Place(tmp_path / "team", database, mlflow)
    for name in names:
        postgres.drop(name)


def answers(place: Place) -> list[Any]:
    """What the service says of every experiment, attempt and trial."""
    found = []
    with serving(create_app(place.settings, MemoryLauncher())) as client:
        for item in client.get(EXPERIMENTS).json()["items"]:
            one = f"{EXPERIMENTS}/{item['id']}"
            trials = client.get(f"{one}/trials").json()["items"]
            logs = [client.get(f"{one}/trials/{trial['trial']}/logs").text for trial in trials]
            found.append([client.get(one).json(), trials, logs])
    assert len(found) >= 2
    return json.loads(json.dumps(found).replace(str(place.home), "HOME"))


def in_mlflow(place: Place) -> list[Any]:
    """Every point of every curve, every tag and parameter, and every registered model."""
    client = MlflowClient(place.tracking_uri, registry_uri=place.tracking_uri)
    found: list[Any] = []
    for experiment in sorted(client.search_experiments(), key=lambda one: one.experiment_id):
        found.append([experiment.experiment_id, experiment.name, experiment.artifact_location, dict(experiment.tags)])
        for run in sorted(client.search_runs([experiment.experiment_id]), key=lambda one: one.info.run_id):
            histories = {
                name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, name)]
                for name in sorted(run.data.metrics)
            }
            found.append([dict(run.info), histories, dict(run.data.params), dict(run.data.tags)])
    models = client.search_registered_models()
    found += [[one.name, [dict(v) for v in client.search_model_versions(f"name='{one.name}'")]] for one in models]
    assert len(found) > 4
    return json.loads(json.dumps(found, default=str).replace(str(place.home), "HOME"))


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(found) > 5
    return found


def everything(place: Place) -> tuple[Any, ...]:
    return answers(place), in_mlflow(place), files(place.storage), files(place.artifacts)


def destroy(place: Place, postgres: Postgres | None = None) -> None:
    shutil.rmtree(place.home)
    for url in filter(None, (place.database_url, place.mlflow_url)):
        assert postgres is not None
        name = url.rpartition("/")[2]
        postgres.drop(name)
        postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0")


def test_a_home_is_as_before_after_it_was_destroyed(home: Place, tmp_path: Path) -> None:
    before = everything(home)
    made = home.run("backup", str(tmp_path / "set"))
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith(f"backed up to {tmp_path / 'set'}: the database, MLflow, and ")
    destroy(home)
    restored = home.run("restore", str(tmp_path / "set"))
    assert restored.exit_code == 0, restored.output
    assert everything(home) == before
    assert home.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_home_becomes_a_team_installation_and_is_restored_there(
    home: Place, team: Place, postgres: Postgres, tmp_path: Path
) -> None:
    """The steps of docs/operating.md; nothing of an experiment is lost on the way."""
    before = everything(home)
    for step in (home.run("backup", str(tmp_path / "set")), team.run("restore", str(tmp_path / "set"))):
        assert step.exit_code == 0, step.output
    assert everything(team) == before
    made = team.run("backup", str(tmp_path / "second"))
    assert made.exit_code == 0, made.output
    destroy(team, postgres)
    restored = team.run("restore", str(tmp_path / "second"))
    assert restored.exit_code == 0, restored.output
    assert everything(team) == before
    with serving(create_app(team.settings, MemoryLauncher())) as client:
        [paused] = [one["id"] for one in client.get(EXPERIMENTS).json()["items"] if one["state"] == "PAUSED"]
        assert client.post(f"{EXPERIMENTS}/{paused}/resume").json()["state"] == "QUEUED"
        assert client.post(EXPERIMENTS, json={"name": "new"}).status_code == 201
    MlflowClient(team.tracking_uri).create_experiment("new")


def test_webhooks_come_back_with_what_waits_for_them(home: Place, tmp_path: Path) -> None:
    """The key is not in a backup: it is a setting."""
    settings = home.settings.model_copy(update={"secret_key": "c2VjcmV0" * 5 + "c2U="})

    def hooks(client: httpx.Client) -> list[Any]:
        items = client.get("/api/v1/webhooks").json()["items"]
        return [[one, client.get(f"/api/v1/webhooks/{one['id']}/deliveries").json()] for one in items]

    with serving(create_app(settings, MemoryLauncher())) as client:
        made = client.post("/api/v1/webhooks", json={"url": "https://hooks.example.com/path-of-a-chat"}).json()
        client.post(f"/api/v1/webhooks/{made['id']}/test").raise_for_status()
        [before] = hooks(client)
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    assert b"path-of-a-chat" not in (tmp_path / "set" / sets.DATABASE).read_bytes()
    destroy(home)
    assert home.do("restore", str(tmp_path / "set")).exit_code == 0
    with serving(create_app(settings, MemoryLauncher())) as client:
        assert hooks(client) == [before]
        assert before[0]["pending"] == len(before[1]["items"]) == 1
        client.post(f"/api/v1/webhooks/{made['id']}/rotate").raise_for_status()


def test_nothing_is_backed_up_while_somebody_may_write(
    home: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "set"
    with locked(home.home):
        running = home.do("backup", str(target))
    assert (running.exit_code, "another `rung up` uses" in running.stderr) == (2, True)
    database = Database.open(home.settings.sqlalchemy_url)
    ended = threading.Event()

    def schedule() -> None:
        acquire(database, "queue", "a service", 15.0, datetime.now(UTC) + timedelta(seconds=60))

    def keep_scheduling() -> None:
        while not ended.wait(0.05):
            schedule()

    schedule()
    scheduling = threading.Thread(target=keep_scheduling)
    scheduling.start()
    monkeypatch.setattr(installation, "LEASE_S", 5.0)
    with pytest.raises(BackupError, match="a service schedules experiments on this database: stop it"):
        making.make(installation.find({}, home.home, None, None), target)
    ended.set()
    scheduling.join()
    database.close()
    assert not target.exists()
    assert list(tmp_path.glob("*.part*")) == []


def test_a_backup_removes_only_what_it_made(home: Place, tmp_path: Path) -> None:
    """Another backup may be writing to the same place, or a person may keep something there."""
    other = tmp_path / "set.part"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with locked(home.home):
        assert home.do("backup", str(tmp_path / "set")).exit_code == 2
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    assert (other / "thesis.txt").read_text() == "precious"
    assert {path.name for path in tmp_path.glob("set*")} == {"set", "set.part"}


def test_a_restore_gives_nobody_more_rights(home: Place, tmp_path: Path) -> None:
    file, folder = next(home.storage.rglob("*.pt")), home.storage / "shared"
    folder.mkdir()
    folder.chmod(0o2777)
    file.chmod(0o6777)
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    copied = tmp_path / "set" / sets.STORAGE / file.relative_to(home.storage)
    copied.chmod(0o6777)
    destroy(home)
    assert home.do("restore", str(tmp_path / "set")).exit_code == 0
    assert (file.stat().st_mode & 0o7777, folder.stat().st_mode & 0o7777) == (0o775, 0o2775)
    private = (home.home / "rung.db", home.home / "mlflow.db", tmp_path / "set" / sets.MLFLOW)
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_drivers_of_a_cluster_must_end_first_as_the_documents_say(home: Place, team: Place, tmp_path: Path) -> None:
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    assert team.do("restore", str(tmp_path / "set")).exit_code == 0
    engine = create_engine(team.database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE experiments SET state = 'RUNNING' WHERE state = 'PAUSED'"))
    engine.dispose()
    refused = team.do("backup", str(tmp_path / "second"))
    assert refused.exit_code == 2
    advice = ("`rung pool change stop=drain`", "`rung cluster` lists no experiment", "`rung pool change stop=none`")
    documented = (Path(__file__).parents[3] / "docs/operating.md").read_text().partition("\n## Backup\n")[2]
    for words in advice:
        assert words in " ".join(refused.stderr.split())
        assert words in documented
    assert not (tmp_path / "second").exists()


def test_a_restore_replaces_nothing_and_refuses_a_set_that_is_damaged(home: Place, tmp_path: Path) -> None:
    target = tmp_path / "set"
    assert home.do("backup", str(target)).exit_code == 0
    before = files(home.home)
    refused = home.do("restore", str(target))
    assert (refused.exit_code, "must be absent or empty" in refused.stderr) == (2, True)
    assert files(home.home).keys() == before.keys()
    other = Place(tmp_path / "other")
    damages = (
        _change_the_database,
        _lose_a_file,
        _lose_the_manifest,
        _change_a_file,
        _empty_the_manifest,
        _link_to_another_folder,
    )
    for damage in damages:
        copied = Path(shutil.copytree(target, tmp_path / damage.__name__))
        damage(copied)
        result = other.do("restore", str(copied))
        assert result.exit_code == 2, result.output
        assert not other.storage.exists()


@pytest.mark.parametrize(
    "last",
    [
        pytest.param((trees, "copy"), marks=pytest.mark.slow),
        (tables, "copy"),
        pytest.param((mlflow_database, "load"), marks=pytest.mark.slow),
        (Path, "rename"),
    ],
    ids=str,
)
def test_an_interrupted_restore_is_known_and_can_be_repeated(
    home: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: tuple[Any, str]
) -> None:
    with serving(
        create_app(home.settings, MemoryLauncher())
    ) as client:  # a row of the audit log, which takes no change
        assert client.post(EXPERIMENTS, json={"name": "new"}).status_code == 201
    before = everything(home)
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    destroy(home)
    found, done = installation.find({}, home.home, None, None), getattr(*last)

    def interrupted(*arguments: Any) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(*last, interrupted)
    with pytest.raises(KeyboardInterrupt):
        restoring.restore(found, tmp_path / "set")
    monkeypatch.undo()
    assert (home.home / "storage.restoring").is_dir()
    assert not home.storage.exists()
    if last == (tables, "copy"):
        refuse_another_database(found, tmp_path / "set")
    with (
        pytest.raises(StackError, match="a restore was interrupted: repeat `rung restore`"),
        running(Options(home=home.home)),
    ):
        pass
    if home.settings.home.joinpath("rung.db").exists() and (home.home / "mlflow.db").exists():
        refused = home.do("backup", str(tmp_path / "second"))
        assert (refused.exit_code, "a restore was interrupted" in refused.stderr) == (2, True)
    if last == (Path, "rename"):
        shutil.rmtree(home.artifacts)
    again = home.do("restore", str(tmp_path / "set"))
    assert again.exit_code == 0, again.output
    assert everything(home) == before
    assert list(home.home.glob("*.restoring*")) == []
    with (
        closing(sqlite3.connect(home.home / "rung.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="the audit log is append-only"),
    ):
        connection.execute("DELETE FROM audit")


def refuse_another_database(interrupted: Installation, backup: Path) -> None:
    """A restore that was interrupted says nothing about another database: it must be empty like any."""
    other = interrupted.home.parent / "other.db"
    database = Database.open(f"sqlite:///{other}")
    database.migrate()
    with database.write() as session:
        experiments.submit(session, ExperimentSpec(name="precious"), [])
    database.close()
    content = other.read_bytes()
    with pytest.raises(BackupError, match=r"other\.db must be empty"):
        restoring.restore(replace(interrupted, database_url=f"sqlite:///{other}"), backup)
    assert other.read_bytes() == content
    begun = Path(str(installation.find({}, interrupted.home, None, None).database_url).removeprefix("sqlite:///"))
    kept = begun.read_bytes()
    shutil.copy(other, begun)  # another installation has its place now
    with pytest.raises(BackupError, match=r"rung\.db must be empty"):
        restoring.restore(interrupted, backup)
    begun.write_bytes(kept)


def test_a_named_pipe_in_a_backup_does_not_block(home: Place, tmp_path: Path) -> None:
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    for name in (sets.DATABASE, sets.MANIFEST):
        (tmp_path / "set" / name).unlink()
        os.mkfifo(tmp_path / "set" / name)
        refused = Place(tmp_path / "other").do("restore", str(tmp_path / "set"))
        assert (refused.exit_code, "is not a complete backup" in refused.stderr) == (2, True), refused.output


def _change_the_database(folder: Path) -> None:
    with closing(sqlite3.connect(folder / sets.DATABASE)) as connection, connection:
        connection.execute("UPDATE experiments SET name = 'another'")


def _lose_a_file(folder: Path) -> None:
    next(path for path in (folder / sets.STORAGE).rglob("*") if path.is_file()).unlink()


def _change_a_file(folder: Path) -> None:
    """Its size stays."""
    file = next(path for path in (folder / sets.STORAGE).rglob("*.pt") if path.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _empty_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / sets.MANIFEST).read_text())
    (folder / sets.MANIFEST).write_text(json.dumps(manifest | {"digests": {}, "files": {}, "size_bytes": {}}))


def _link_to_another_folder(folder: Path) -> None:
    """The person who restores may read more than the one who prepared the backup."""
    (folder / sets.ARTIFACTS).rename(folder.with_name("private"))
    (folder / sets.ARTIFACTS).symlink_to(folder.with_name("private"))


def _lose_the_manifest(folder: Path) -> None:
    (folder / sets.MANIFEST).unlink()


def test_files_of_two_names_and_links_stay_what_they_are(home: Place, tmp_path: Path) -> None:
    some = next(path for path in home.storage.rglob("*.pt"))
    os.link(some, some.with_name("second.pt"))
    (some.parent / "link").symlink_to("/nowhere")
    assert home.do("backup", str(tmp_path / "set")).exit_code == 0
    destroy(home)
    assert home.do("restore", str(tmp_path / "set")).exit_code == 0
    assert some.stat().st_ino == some.with_name("second.pt").stat().st_ino
    assert os.readlink(some.parent / "link") == "/nowhere"


def test_where_nothing_is_nothing_is_backed_up_or_created(tmp_path: Path) -> None:
    refused = Place(tmp_path / "nowhere").do("backup", str(tmp_path / "set"))
    assert (refused.exit_code, "there is no installation to back up" in refused.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_a_new_folder_outside_of_what_is_backed_up(home: Place, tmp_path: Path) -> None:
    for folder, why in (
        (home.storage / "set", "must not be in what is backed up"),
        (home.home, "must be a new or an empty"),
    ):
        refused = home.do("backup", str(folder))
        assert (refused.exit_code, why in refused.stderr) == (2, True), refused.output
