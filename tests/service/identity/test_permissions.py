"""Roles and permissions: each role may do what the one before may, in its own team."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from service.identity.permissions import EVERYBODY, ROLES, Permission, allows, allows_somewhere, refusal, teams_with
from service.identity.principals import Principal, PrincipalKind, Role


def person(admin: bool = False, **roles: Role) -> Principal:
    return Principal(PrincipalKind.PERSON, "u", "ada", "u", admin, roles)


def test_each_role_may_do_what_the_one_before_may() -> None:
    assert list(ROLES) == list(Role)
    for less, more in pairwise(ROLES.values()):
        assert less < more


@pytest.mark.parametrize("permission", Permission)
def test_a_role_holds_in_its_team_only(permission: Permission) -> None:
    one = person(vision=Role.MANAGER)
    assert allows(one, permission, "vision") is (permission in ROLES[Role.MANAGER] | EVERYBODY)
    assert allows(one, permission, "speech") is (permission in EVERYBODY)
    assert allows(one, permission, None) is (permission in EVERYBODY)
    assert allows_somewhere(one, permission) is allows(one, permission, "vision")


@pytest.mark.parametrize("permission", Permission)
def test_an_administrator_may_do_everything_except_to_report_as_a_driver(permission: Permission) -> None:
    for team in ("vision", None):
        assert allows(person(admin=True), permission, team) is (permission is not Permission.ATTEMPT_BEAT)


def test_which_teams_a_permission_holds_in() -> None:
    one = person(vision=Role.VIEWER, speech=Role.MEMBER)
    assert teams_with(one, Permission.EXPERIMENT_READ) == {"vision", "speech"}
    assert teams_with(one, Permission.EXPERIMENT_SUBMIT) == {"speech"}
    assert teams_with(person(), Permission.EXPERIMENT_READ) == frozenset()
    assert teams_with(person(admin=True), Permission.EXPERIMENT_READ) is None


def test_a_refusal_says_who_may() -> None:
    text = refusal(person(vision=Role.VIEWER), Permission.EXPERIMENT_CANCEL, "vision")
    assert "viewer" in text
    assert "experiment.cancel, which members, managers and administrators have" in text
    assert "experiment.cancel" in refusal(person(), Permission.EXPERIMENT_CANCEL)


def test_a_refusal_in_an_archived_team_says_that_it_is_archived() -> None:
    one = replace(person(vision=Role.VIEWER, speech=Role.VIEWER), archived=frozenset({"vision"}))
    said = "the team 'vision' is archived: its members can read its experiments, and nothing else"
    assert refusal(one, Permission.EXPERIMENT_CANCEL, "vision") == said
    assert "archived" not in refusal(one, Permission.EXPERIMENT_CANCEL, "speech")
    assert refusal(one, Permission.AUDIT_READ).endswith("administrators have, except in teams that are archived")


def test_the_lesser_of_two_roles() -> None:
    assert Role.MANAGER.at_most(Role.VIEWER) is Role.VIEWER
    assert Role.VIEWER.at_most(Role.MEMBER) is Role.VIEWER
