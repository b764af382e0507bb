"""Client: the SDK. Every address of the REST interface as a method, and its failures as `service.errors`.

    with Rung("http://127.0.0.1:8080") as rung:
        experiment = rung.submit({"name": "first"})
        print(rung.wait(experiment.id).best)

Owns the way over HTTP: paths, pages, problem documents. It must not know terminals, nor the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from search_spaces.experiment import TrialSpec
from service.errors import MEDIA_TYPE, RungError, Unavailable, from_document, of_status
from service.schemas import (
    ClusterStatus,
    Curves,
    ExperimentPage,
    ExperimentSummary,
    ExperimentView,
    Preset,
    PresetName,
    Readiness,
    TrialPage,
    TrialView,
    Validated,
)
from service.states import ENDED, State

V = TypeVar("V", bound=BaseModel)
Query = Mapping[str, str | int | bool | None]
API = "/api/v1"
PAGE = 100
#: Seconds that `watch` bears a service that is away: experiments go on without it.
PATIENCE_S = 60.0


class Unreachable(Unavailable):
    """Nothing that speaks like Rung answers at the address."""

    code: ClassVar[str] = "unreachable"
    title: ClassVar[str] = "Nobody answers"


class Rung:
    """One service. Methods raise `RungError`: `Invalid` with the problems of a spec, `NotFound`, `Unreachable`, ..."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        try:
            loopback = httpx.URL(self.url).host in {"127.0.0.1", "localhost", "::1"}
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=timeout_s,
                transport=transport,
                trust_env=not loopback,  # a proxy does not lead back to this machine
            )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{url} is no address: {error}") from None

    @overload
    def submit(self, spec: Mapping[str, Any] | str | Path, validate_only: Literal[False] = False) -> ExperimentView: ...

    @overload
    def submit(self, spec: Mapping[str, Any] | str | Path, validate_only: Literal[True]) -> Validated: ...

    def submit(self, spec: Mapping[str, Any] | str | Path, validate_only: bool = False) -> ExperimentView | Validated:
        """Queue an experiment, or only check it. `spec` is a mapping, YAML text, or a file. Raises Invalid."""
        body, media_type = _body(spec)
        query = {"validate_only": True} if validate_only else {}
        response = self._send("POST", f"{API}/experiments", query, body, media_type)
        return self._read(Validated, response) if validate_only else self._read(ExperimentView, response)

    def list(
        self,
        *,
        state: State | str | None = None,
        project: str | None = None,
        name: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> Iterator[ExperimentSummary]:
        """Experiments, the newest first, page by page as they are asked for."""
        query = {"state": state, "project": project, "name": name, "label": label}
        for page in self._pages(ExperimentPage, f"{API}/experiments", query, limit):
            yield from page.items

    def get(self, experiment_id: str) -> ExperimentView:
        return self._get(ExperimentView, _experiment(experiment_id))

    def cancel(self, experiment_id: str) -> ExperimentView:
        """Ask for the end of an experiment; its trials end within seconds. Raises Conflict when it has ended."""
        return self._read(ExperimentView, self._send("POST", f"{_experiment(experiment_id)}/cancel"))

    def trials(
        self, experiment_id: str, *, sort: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Iterator[TrialView]:
        """Trials sorted by a metric or field, `-` before it for the largest first."""
        query = {"sort": sort, "state": state}
        for page in self._pages(TrialPage, f"{_experiment(experiment_id)}/trials", query, limit):
            yield from page.items

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        return self._get(TrialView, f"{_experiment(experiment_id)}/trials/{int(trial)}")

    def trial_spec(self, experiment_id: str, trial: int) -> TrialSpec:
        """The configuration that a trial ran, without domains."""
        return self._get(TrialSpec, f"{_experiment(experiment_id)}/trials/{int(trial)}/spec")

    def curves(self, experiment_id: str, trial: int) -> Curves:
        """Every metric of a trial by epoch."""
        return self._get(Curves, f"{_experiment(experiment_id)}/trials/{int(trial)}/curves")

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a spec."""
        return self._object(self._send("GET", f"{API}/schema"))

    def presets(self) -> tuple[PresetName, ...]:
        return tuple(self._model(PresetName, item) for item in self._json(self._send("GET", f"{API}/presets")))

    def preset(self, name: str) -> Preset:
        """A preset as YAML with its comments, and completed. Raises NotFound naming the nearest."""
        return self._get(Preset, f"{API}/presets/{quote(name, safe='')}")

    def cluster(self) -> ClusterStatus:
        return self._get(ClusterStatus, f"{API}/cluster")

    def health(self) -> Readiness:
        """What of the database, Ray and MLflow is there. A service that is not ready answers too."""
        return self._read(Readiness, self._send("GET", "/readyz", accept=503))

    def watch(self, experiment_id: str, interval_s: float = 0.5) -> Iterator[ExperimentView]:
        """The experiment now and after each interval, until it has ended; the last one given has ended.

        Bears a service that is away for up to PATIENCE_S.
        """
        answered = time.monotonic()
        while True:
            try:
                view = self.get(experiment_id)
            except Unavailable:
                if time.monotonic() - answered > PATIENCE_S:
                    raise
            else:
                answered = time.monotonic()
                yield view
                if view.state in ENDED:
                    return
            time.sleep(interval_s)

    def wait(self, experiment_id: str, timeout_s: float | None = None, interval_s: float = 0.5) -> ExperimentView:
        """The experiment once it has ended. Raises TimeoutError."""
        begun = time.monotonic()
        for view in self.watch(experiment_id, interval_s):
            if view.state not in ENDED and timeout_s is not None and time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"experiment {experiment_id} is {view.state} after {timeout_s:g} s")
        return view

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pages(self, cls: type[V], path: str, query: Query, limit: int | None) -> Iterator[V]:
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page: Any = self._get(cls, path, {**query, "limit": size, "cursor": cursor})
            yield page
            cursor = page.next_cursor
            left = None if left is None else left - len(page.items)
            if cursor is None:
                return

    def _get(self, cls: type[V], path: str, query: Query | None = None) -> V:
        return self._read(cls, self._send("GET", path, query))

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        media_type: str | None = None,
        accept: int | None = None,
    ) -> httpx.Response:
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {"Content-Type": media_type} if media_type else {}
        try:
            response = self._http.request(method, path, params=parameters, content=body, headers=headers)
        except httpx.TimeoutException:
            raise Unreachable(f"{self.url} did not answer in time; is it overloaded?") from None
        except (httpx.TransportError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise Unreachable(
                f"no Rung service answers at {self.url} ({why}); start one with `rung up`, or give its address "
                "with --url or RUNG_URL"
            ) from None
        if not response.is_success and (response.status_code != accept or _is_problem(response)):
            raise self._failure(response)
        return response

    def _failure(self, response: httpx.Response) -> RungError:
        if _is_problem(response):
            return from_document(self._object(response), response.status_code)
        return of_status(response.status_code)(
            f"{response.request.method} {response.url} answered {response.status_code} {response.text[:200]}"
        )

    def _read(self, cls: type[V], response: httpx.Response) -> V:
        return self._model(cls, self._json(response))

    def _model(self, cls: type[V], data: Any) -> V:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise Unreachable(
                f"{self.url} does not answer like this version of Rung: {cls.__name__}.{place}: {first['msg']}"
            ) from None

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Unreachable(
                f"{self.url} is no Rung service: {response.url.path} answered {response.text[:80]!r}"
            ) from None

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        data = self._json(response)
        return data if isinstance(data, dict) else {"detail": str(data)}


def _is_problem(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).partition(";")[0] == MEDIA_TYPE


def _experiment(experiment_id: str) -> str:
    return f"{API}/experiments/{quote(experiment_id, safe='')}"


def _body(spec: Mapping[str, Any] | str | Path) -> tuple[bytes, str]:
    if isinstance(spec, Mapping):
        return json.dumps(spec).encode(), "application/json"
    if isinstance(spec, str):
        return spec.encode(), "application/yaml"
    return spec.read_bytes(), "application/json" if spec.suffix == ".json" else "application/yaml"
