"""An integration that an operator pauses."""

from emulator.web.status import collect
from tests.site import site


def test_a_paused_integration_fetches_nothing_delivers_what_it_has_and_goes_on_where_it_was() -> None:
    with site() as found:
        found.central.fill(30)
        found.results("fetch-page")
        assert found.command("pause", "acme")["paused"] is True
        found.central.emit(5)
        (line,) = found.results("fetch-page")
        assert (line["outcome"], line["pages"]) == ("paused", 0)
        found.results("forward-batch")
        assert len(found.raws()) == 30
        told = collect(found.app)
        assert (told["integrations"][0]["state"], told["ok"], told["health"]) == ("paused", False, "attention")
        assert [each["code"] for each in told["reasons"]] == ["paused"]
        assert told["integrations"][0]["since"] is not None
        assert "acme" in found.command("pause", "nobody", status=2)["problem"]["detail"]
        assert found.command("resume", "acme")["paused"] is False
        (line,) = found.results("fetch-page")
        assert line["events"] == 5
        assert collect(found.app)["integrations"][0]["state"] == "collecting"
