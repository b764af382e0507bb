"""Every early stopping rule of the registry keeps the contract; a new rule is tested without a change here."""

from __future__ import annotations

import pytest

from search_spaces.early_stopping import EarlyStopping
from search_spaces.early_stopping.base import EarlyStoppingSpec
from search_spaces.spec import members
from tests.support.contracts.stopping_rule import StoppingRuleContract
from tests.support.pausing import Pausing


@pytest.fixture(params=members(EarlyStopping), ids=lambda member: member.__name__)
def early_stopping(request: pytest.FixtureRequest) -> EarlyStoppingSpec:
    spec: EarlyStoppingSpec = request.param()
    return spec


class TestEveryRule(StoppingRuleContract):
    pass


class TestARuleThatPauses(StoppingRuleContract):
    @pytest.fixture
    def early_stopping(self) -> EarlyStoppingSpec:
        return Pausing()


def test_a_spec_without_a_rule_cannot_be_made() -> None:
    class Forgotten(EarlyStoppingSpec):
        kind: str = "forgotten"

    with pytest.raises(TypeError, match=r"abstract method '?rule"):
        Forgotten()  # type: ignore[abstract]
