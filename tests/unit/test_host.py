"""Credentials go to Sophos or loopback, whatever a URL pretends to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import HostRefusedError
from lib.model.host import check_url, proxy_fault


@pytest.mark.parametrize(
    "url",
    [
        "https://id.sophos.com",
        "https://api-us03.central.sophos.com/siem/v1/events",
        "https://API.CENTRAL.SOPHOS.COM",
        "http://127.0.0.1:8080",
        "http://localhost",
        "https://[::1]:1",
    ],
)
def test_sophos_and_loopback_may_have_credentials(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.sophos.com",
        "https://sophos.com.example.com",
        "https://notsophos.com",
        "https://evil-sophos.com",
        "https://id.sophos.com@example.com",
        "https://user:pw@id.sophos.com",
        "https://example.com\\.sophos.com",
        "https://example.com#.sophos.com",
        "https://example.com?.sophos.com",
        "https://id.sophos.com.",
        "https://id.sophos.com%2eexample.com",
        "https://idсophos.sophos.com.example.org",
        "ftp://id.sophos.com",
        "//id.sophos.com",
        "id.sophos.com",
        "https://",
        "",
        " https://id.sophos.com",
        "https://id.sophos.com:99999",
        "http://127.0.0.1.example.com",
        "http://192.0.2.1",
        "http://0.0.0.0",
        "https://example.com\t.sophos.com",
        "https://id.sophos\n.com",
    ],
)
def test_every_other_url_is_refused(url: str) -> None:
    with pytest.raises(HostRefusedError):
        check_url(url)


def test_another_host_has_to_be_named_and_needs_https() -> None:
    check_url("https://proxy.example.com", allow_hosts=["Proxy.Example.com"])
    with pytest.raises(HostRefusedError, match="not an https URL"):
        check_url("http://proxy.example.com", allow_hosts=["proxy.example.com"])


def test_a_refusal_repeats_no_secret() -> None:
    with pytest.raises(HostRefusedError) as refusal:
        check_url("https://user:hunter2@example.com/?token=hunter2")
    assert "hunter2" not in str(refusal.value)


@given(st.text(max_size=80))
def test_what_passes_is_sophos_or_loopback(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}.sophos.com", f"https://sophos.com{text}"):
        try:
            parts = check_url(url)
        except HostRefusedError:
            continue
        host = parts.hostname or ""
        assert parts.scheme in ("http", "https")
        assert host.endswith(".sophos.com") or host == "localhost" or host.startswith("127.") or ":" in host


@given(st.text(max_size=40))
def test_any_text_is_a_proxy_or_not_and_is_never_repeated(text: str) -> None:
    fault = proxy_fault(f"http://user:s3cret-{text}@proxy.example.com:3128")
    assert fault is None or "s3cret" not in fault
    assert proxy_fault(text) is None or "http://proxy.example.com:3128" in str(proxy_fault(text))


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://proxy.example.com:3128", True),
        ("https://user:password@[2001:db8::1]:3128/", True),
        ("proxy.example.com:3128", False),
        ("socks5://proxy.example.com", False),
        ("http://proxy.example.com:0", False),
        ("http://proxy.example.com/path", False),
        (" http://proxy.example.com", False),
        ("http://", False),
    ],
)
def test_a_proxy_is_a_plain_http_url(url: str, good: bool) -> None:
    assert (proxy_fault(url) is None) == good
