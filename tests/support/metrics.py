"""The metrics of a service, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples: Series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Raises KeyError where there is no such sample."""
        return self.samples[name, frozenset(labels.items())]

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of a metric by one label, without those that are zero."""
        found = {dict(labels)[label]: value for (one, labels), value in self.samples.items() if one == name}
        return {key: value for key, value in found.items() if value}

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def scrape(client: httpx.Client) -> Scraped:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Scraped(answer.text)
