"""Teams over REST: who may take whom out of a team."""

from __future__ import annotations

import httpx

from tests.support.accounts import Accounts, signed_in


def test_everybody_may_leave_a_team_but_not_with_a_restricted_token(client: httpx.Client, accounts: Accounts) -> None:
    """A manager adds people without asking them, which decides where they submit to."""
    for team in ("vision", "speech"):
        accounts.team(team)
    token = accounts.person("ada", vision="viewer", speech="member")
    accounts.person("bob", vision="member")
    with signed_in(client, accounts.token("ada", team="vision", role="viewer")) as restricted:
        assert restricted.delete("/api/v1/teams/vision/members/ada").status_code == 403
    with signed_in(client, token) as ada:
        assert ada.delete("/api/v1/teams/vision/members/bob").status_code == 403
        assert ada.delete("/api/v1/teams/vision/members/ada").status_code == 204
        assert [team["team"] for team in ada.get("/api/v1/teams").json()["items"]] == ["speech"]
