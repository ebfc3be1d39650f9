"""Regions: names, codes and hosts, and whether a stated one is the tenant's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import WrongRegionError
from lib.model.region import AUTO, KNOWN, mismatch, refusal, region_fault, region_of

codes = st.one_of(st.sampled_from(KNOWN), st.from_regex(r"[a-z]{2}[0-9]{2}", fullmatch=True))


def host(code: str) -> str:
    return f"https://api-{code}.central.sophos.com"


@given(code=codes, other=codes)
def test_a_code_or_its_host_in_any_case_is_right_for_its_own_region_only(code: str, other: str) -> None:
    assert region_of(host(code)) == code
    for stated in (code, code.upper(), host(code), host(code).upper().replace("HTTPS", "https")):
        assert region_fault(stated) is None
        assert mismatch(stated, host(code)) is None
        told = refusal(stated, host(other))
        assert (told is None) == (code == other) or code == "eu02"
        if told is not None:
            assert isinstance(told, WrongRegionError)
            assert f"region: {other}" in told.remedy
            assert f"region is {other}" in str(told)


@given(st.text(max_size=40))
def test_any_text_is_judged_without_failing_and_what_is_named_can_be_stated(text: str) -> None:
    for stated in (text, f"https://{text}"):
        fault = region_fault(stated)
        assert fault is None or "Use one of" in fault
        right = mismatch(stated, host("us03"))
        assert right in (None, "us03")
        assert mismatch("us", f"https://{text}") in (None, region_of(f"https://{text}"))
    assert mismatch(AUTO, text) is None


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        ("us", ("us01", "us02", "us03")),
        ("https://api.central.sophos.com", ("us01", "us02", "us03")),
        ("eu", ("eu01", "eu02")),
        ("https://api-eu01.central.sophos.com", ("eu01",)),
        ("eu02", ("eu02",)),
        ("https://api-eu02.central.sophos.com/", ("eu02",)),
        ("apac", ("au01", "jp01", "in01")),
        ("https://api-apac.central.sophos.com", ("au01", "jp01", "in01")),
    ],
)
def test_the_four_names_and_hosts_of_the_documentation_stand_for_their_regions(
    stated: str, right: tuple[str, ...]
) -> None:
    assert region_fault(stated) is None
    assert tuple(code for code in KNOWN if mismatch(stated, host(code)) is None) == right


@pytest.mark.parametrize(
    ("area", "codes"),
    [
        ("us", ("us01", "us04", "us99")),
        ("https://api.central.sophos.com", ("us04",)),
        ("eu", ("eu01", "eu03", "eu10")),
        ("apac", ("au01", "au02", "jp02", "in03", "sg01")),
    ],
)
def test_an_area_takes_every_region_of_it_that_there_may_be(area: str, codes: tuple[str, ...]) -> None:
    assert [refusal(area, host(code)) for code in codes] == [None] * len(codes)
    others = ("us03", "eu01", "ca01", "br01", "au01", "us1", "eu")
    taken = [code for code in others if code not in codes and mismatch(area, host(code)) is None]
    assert all(code[:2] in {each[:2] for each in codes} and len(code) == 4 for code in taken)


@pytest.mark.parametrize(
    ("stated", "near"), [("eu-02", "eu02"), ("apca", "apac"), ("us-east-1", ""), ("us 01", "us01")]
)
def test_what_is_no_region_is_told_with_the_nearest_and_all_that_are(stated: str, near: str) -> None:
    fault = str(region_fault(stated))
    assert near in fault
    assert all(code in fault for code in KNOWN)


def test_a_test_server_can_only_be_compared_with_a_url() -> None:
    here = "http://127.0.0.1:8100"
    assert [mismatch(stated, here) for stated in ("us", here, here.upper().replace("HTTP", "http"))] == [None] * 3
    assert mismatch("http://127.0.0.1:8200", here) == here
