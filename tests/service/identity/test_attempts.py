"""Attempts to sign in: how many are allowed, from where and for whom."""

from __future__ import annotations

import pytest

from service.identity import attempts
from service.identity.attempts import AttemptLimits, Limit, SignInAttempts, TooManyAttemptsError
from tests.support.clock import Clock

LIMITS = AttemptLimits(address=Limit(6, 60), login=Limit(3, 300), all_addresses=Limit(9, 3600))


@pytest.fixture
def tried(clock: Clock) -> SignInAttempts:
    return SignInAttempts(LIMITS, clock.monotonic)


def allowed(tried: SignInAttempts, address: str, login: str, most: int = 20) -> int:
    """How many attempts are allowed at once."""
    for number in range(most):
        try:
            tried.begin(address, login)
        except TooManyAttemptsError:
            return number
    return most


def test_one_address_may_guess_a_password_a_few_times(tried: SignInAttempts, clock: Clock) -> None:
    assert allowed(tried, "192.0.2.1", "alice") == 3
    with pytest.raises(TooManyAttemptsError, match="try again in 300 s") as caught:
        tried.begin("192.0.2.1", "ALICE")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "300"})
    tried.begin("192.0.2.2", "alice")
    clock.sleep(300)
    assert allowed(tried, "192.0.2.1", "alice") == 3


def test_one_address_may_try_a_few_logins(tried: SignInAttempts, clock: Clock) -> None:
    assert sum(allowed(tried, "192.0.2.1", f"user{number}", 1) for number in range(20)) == 6
    clock.sleep(60)
    tried.begin("192.0.2.1", "user30")


def test_many_addresses_together_may_guess_a_password_for_some_time(tried: SignInAttempts) -> None:
    assert sum(allowed(tried, f"192.0.2.{number}", "alice", 1) for number in range(20)) == 9
    tried.begin("192.0.2.50", "bob")


def test_a_success_forgets_the_typing_errors_of_this_address_only(tried: SignInAttempts) -> None:
    for address in ("192.0.2.1", "192.0.2.2"):
        allowed(tried, address, "alice")
    tried.succeeded("192.0.2.1", "Alice")
    assert allowed(tried, "192.0.2.1", "alice") > 0
    assert allowed(tried, "192.0.2.2", "alice") == 0


def test_sign_ins_without_a_login_count_by_address(tried: SignInAttempts) -> None:
    assert allowed(tried, "192.0.2.1", "") == 6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("testclient", "testclient", True),
    ],
)
def test_the_addresses_of_one_network_count_together(one: str, other: str, same: bool) -> None:
    assert (attempts.network_of(one) == attempts.network_of(other)) is same


def test_the_memory_is_bounded_and_forgets_what_was_used_longest_ago(
    tried: SignInAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MAX_KEYS", 100)
    for address in ("192.0.2.1", "192.0.2.2"):
        assert allowed(tried, address, "alice") == 3
    for number in range(98):
        tried.begin(f"10.0.0.{number}", f"user{number}")
    assert allowed(tried, "192.0.2.2", "alice") == 0
    for number in range(98, 100):
        tried.begin(f"10.0.0.{number}", f"user{number}")
    assert allowed(tried, "192.0.2.2", "alice") == 0
    assert allowed(tried, "192.0.2.1", "alice") == 3
