"""The life of a credential: what is remembered of it, and when somebody is told."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model.credential import AHEAD, ESTABLISHED, RENEWAL, InUse, Life, left_out, warnings
from lib.model.page import Whoami
from lib.state.accounts import ACCOUNT, Account

START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is beside
lives = st.builds(Life, st.text(), st.booleans(), st.none() | moments, st.none() | moments)


def codes(life: Life, now: datetime, refused_since: datetime | None = None) -> list[str]:
    return [each.code for each in warnings(life, refused_since, now, "t-1")]


@given(lives)
def test_a_life_survives_its_own_fields(life: Life) -> None:
    kept = ACCOUNT.decode(ACCOUNT.encode(Account(life=life))).life
    assert (kept.fingerprint, kept.is_next) == (life.fingerprint, life.is_next)
    for mine, other in ((kept.since, life.since), (kept.end_announced, life.end_announced)):
        assert (mine is None) == (other is None)
        assert mine is None or other is None or abs(mine - other) < timedelta(milliseconds=1)


@given(lives, st.none() | moments, moments)
def test_every_warning_has_a_date_and_says_what_to_do(life: Life, refused: datetime | None, now: datetime) -> None:
    found = warnings(life, refused, now, "t-1")
    assert len({each.code for each in found}) == len(found)
    for each in found:
        assert each.remedy.endswith(".")
        assert f"{each.date:%Y-%m-%d}" in each.text


def test_an_age_is_told_in_time_and_a_short_refusal_is_no_end() -> None:
    life = Life("x", since=START)
    due = START + RENEWAL - AHEAD
    assert codes(life, due - timedelta(seconds=1)) == []
    assert codes(life, due) == ["credential_old"]
    assert codes(life, due, START + ESTABLISHED) == ["credential_ended"]
    assert codes(life, START + ESTABLISHED, START + ESTABLISHED - timedelta(seconds=1)) == []


def test_another_credential_begins_a_life_of_its_own_and_the_same_one_goes_on() -> None:
    first = Life(end_announced=START).used(InUse("a", is_next=False), START)
    assert (first.since, first.end_announced) == (START, START)
    assert first.used(InUse("a", is_next=False), START + RENEWAL) == first
    moved = first.used(InUse("b", is_next=True), START + RENEWAL)
    assert (moved.since, moved.end_announced, moved.is_next) == (START + RENEWAL, None, True)
    up = moved.used(InUse("b", is_next=False), START + RENEWAL * 2)
    assert (up.since, up.is_next) == (START + RENEWAL, False)
    assert moved.fingerprint != "b"


@pytest.mark.parametrize(("id_type", "told"), [("tenant", True), ("partner", False), ("organization", False)])
def test_only_what_is_announced_to_the_credentials_own_tenant_is_told_with_its_name(
    id_type: str, *, told: bool
) -> None:
    account = Account(who=Whoami("t-1", id_type, "", None), life=Life(end_announced=START))
    found = account.warnings(START)
    assert [each.code for each in found] == (["credential_ending"] if told else [])
    assert all("tenant t-1 " in each.text and f"{START:%Y-%m-%d}" in each.text for each in found)


def test_tenants_that_are_left_out_are_told_once_however_often_they_are_listed() -> None:
    odd = {"t-2": "unusable fields: apiHost"}
    assert left_out({}, START) == []
    (first,), (later,) = left_out(odd, START), left_out(odd, START + timedelta(days=3))
    assert "t-2 (unusable fields: apiHost)" in first.text
    assert first.mark == later.mark, "what was acknowledged stays so"
    (found,) = left_out({f"t-{number}": "odd" for number in range(9)}, START)
    assert found.mark != first.mark
    assert found.text.endswith("and 4 more")
