"""Where notifications may be sent to: URLs, addresses in all their forms, and what an administrator allows."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhook_targets import AllowedTargets, TargetRefusedError

NONE = AllowedTargets()
URL = "https://hooks.example.com/rung"
PUBLIC = ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822")
NOT_PUBLIC = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16", "192.0.0.192"),
    *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::5db8:d822", "2002:7f00:1::", "2002:5db8:d822::", "2001:0:5db8:d822::"),
)
#: Where clouds have their secrets, and what is nobody's.
NEVER_BY_NAME = (
    *("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "100.100.100.200", "fd00:ec2::254", "168.63.129.16"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255"),
)


def check(allowed: AllowedTargets, url: str, *addresses: str) -> None:
    allowed.check(allowed.parse_url(url), [ip_address(one) for one in addresses])


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    check(NONE, URL, address)
    host = f"[{address}]" if ":" in address else address
    assert NONE.parse_url(f"https://{host}/x").host == address


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(TargetRefusedError, match="must have public addresses only"):
        check(NONE, URL, address)
    with pytest.raises(TargetRefusedError, match="must have public addresses only"):
        check(NONE, URL, PUBLIC[0], address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(TargetRefusedError, match="must have public addresses only"):
        NONE.parse_url(f"https://{host}/x")


@given(st.ip_addresses(v=4))
def test_no_form_of_an_address_is_judged_more_kindly_than_the_address(address: object) -> None:
    forms = (f"::ffff:{address}", f"64:ff9b::{address}")

    def is_allowed(text: str) -> bool:
        try:
            check(NONE, URL, text)
        except TargetRefusedError:
            return False
        return True

    assert {is_allowed(form) for form in forms} == {is_allowed(str(address))}
    assert not is_allowed(f"::{address}")


def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(TargetRefusedError, match="must have a name with an address"):
        check(NONE, URL)


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example.com", "ftp://hooks.example.com/", "file:///etc/passwd", "https://", "https:///x"),
        *("https://hooks.example.com:0/", "https://hooks.example.com:99999/", "https://hooks.example.com:x/"),
        *("https://user@hooks.example.com/", "https://user:word@hooks.example.com/", "https://@hooks.example.com/"),
        *(
            "https://hooks.example.com/#x",
            "https://hooks.example.com\\@127.0.0.1/",
            "https://[::1",
            "https://[fe80::1%25eth0]/",
        ),
        *("https://hooks.example.com/a b", "https://hooks.example.com/\r\nHost: x", "https://hooks.example.com/\t"),
        *("https://höoks.example.com/", "https://-x.example.com/", "https://a..b/", f"https://x.example/{'a' * 2048}"),
        *("https://%31%32%37.0.0.1/", "https://*.example.com/", "javascript:alert(1)", "//hooks.example.com/"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(TargetRefusedError, match=r"^must "):
        NONE.parse_url(url)


def test_what_was_checked_is_what_is_used() -> None:
    target = NONE.parse_url("https://Hooks.Example.com:8443/a/b?c=d")
    assert (target.host, target.port, target.path) == ("hooks.example.com", 8443, "/a/b?c=d")
    assert (target.authority, target.origin) == ("hooks.example.com:8443", "https://hooks.example.com:8443")
    assert NONE.parse_url("https://hooks.example.com?x").path == "/?x"
    assert NONE.parse_url("https://[2606:4700::1111]/").authority == "[2606:4700::1111]"


def test_http_needs_a_host_that_is_allowed() -> None:
    with pytest.raises(TargetRefusedError, match="must begin with https://"):
        NONE.parse_url("http://hooks.example.com/")
    with pytest.raises(TargetRefusedError, match="must begin with https://"):
        NONE.parse_url("http://93.184.216.34/")
    allowed = AllowedTargets.parse("chat.intra:8080, 10.1.0.0/16")
    check(allowed, "http://chat.intra:8080/x", "10.2.0.1")
    check(allowed, "http://10.1.2.3/x", "10.1.2.3")
    for url in ("http://chat.intra/x", "http://other.intra:8080/"):
        with pytest.raises(TargetRefusedError, match="must begin with https://"):
            allowed.parse_url(url)
    with pytest.raises(TargetRefusedError, match="must begin with https://"):
        allowed.parse_url("http://10.2.2.3/x")


def test_what_is_allowed_by_name_is_near_and_not_more() -> None:
    allowed = AllowedTargets.parse("chat.intra")
    for address in ("10.0.0.1", "127.0.0.1", "::1", "fd12::1", "100.64.0.1", "93.184.216.34"):
        check(allowed, "https://chat.intra/", address)
        check(allowed, "https://chat.intra.:9/", address)
    for address in NEVER_BY_NAME:
        with pytest.raises(TargetRefusedError):
            check(allowed, "https://chat.intra/", address)
    with pytest.raises(TargetRefusedError):
        check(allowed, "https://chat.intra.example.com/", "10.0.0.1")


def test_what_is_allowed_by_network_is_each_of_its_addresses() -> None:
    allowed = AllowedTargets.parse("10.1.0.0/16,fd12::/64, 127.0.0.1")
    check(allowed, "https://any.example.com/", "10.1.0.1", "fd12::7")
    check(allowed, "http://127.0.0.1:9/", "127.0.0.1")
    for addresses in (("10.1.0.1", "10.2.0.1"), ("127.0.0.2",), ("fd13::1",)):
        with pytest.raises(TargetRefusedError):
            check(allowed, "https://any.example.com/", *addresses)


@pytest.mark.parametrize("text", ["https://chat.intra", "chat.intra:x", "chat.intra:0", "10.0.0.1/8", "a b", "*"])
def test_what_is_allowed_is_read_strictly(text: str) -> None:
    with pytest.raises(ValueError, match="must be host names"):
        AllowedTargets.parse(f"good.example,{text}")
