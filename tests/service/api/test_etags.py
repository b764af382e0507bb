"""If-Match as RFC 9110 writes it: lists, weak tags, and what is no tag."""

from __future__ import annotations

import pytest

from service.api.etags import etag, parse
from service.contract.errors import BadRequestError, PreconditionFailedError
from tests.support.world import World


@pytest.mark.parametrize("header", [None, "*", " * ", '"5"', '"4", "5"', '"4" ,,W/"8","5" ', ', "5"'])
def test_a_matching_if_match_passes(header: str | None) -> None:
    parse(header).check("k3v9q2mz", 5)


@pytest.mark.parametrize("header", ['"4"', '""', 'W/"5"', '"4", "6"', '"4,5"', '"05"', '"\xe9"'])
def test_a_mismatch_names_both_tags(header: str) -> None:
    with pytest.raises(PreconditionFailedError) as caught:
        parse(header).check("k3v9q2mz", 5)
    assert header in caught.value.detail
    assert etag(5) in caught.value.detail


@pytest.mark.parametrize("header", ["", "5", '"5', '5"', '"4" "5"', '*, "5"', "w/", 'W/5, "5"', "," * 900, '"a b"'])
def test_a_malformed_if_match_is_refused(header: str) -> None:
    with pytest.raises(BadRequestError, match="If-Match"):
        parse(header)


@pytest.mark.timeout(20)
def test_a_hostile_if_match_is_parsed_in_linear_time() -> None:
    for header in ('"5"' + " ," * 100_000 + "x", '"5",' * 50_000 + "x", " " * 200_000 + "x"):
        with pytest.raises(BadRequestError):
            parse(header)


def test_a_trial_is_canceled_at_the_revision_of_its_experiment(world: World) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    seen = world.show(one)["revision"]
    late = world.post(one, "trials/0/cancel", if_match='"0"')
    assert (late.status_code, world.show(one)["revision"]) == (412, seen)
    assert world.post(one, "trials/0/cancel", if_match="0").status_code == 400
    done = world.post(one, "trials/0/cancel", if_match=etag(seen))
    assert (done.status_code, done.headers["etag"]) == (202, etag(seen + 1))
