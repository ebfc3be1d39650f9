"""An integration that an operator pauses."""

import pytest

from emulator import commands
from emulator.status import collect
from lib import config as configuration
from tests.site import site


def test_a_paused_integration_fetches_nothing_delivers_what_it_has_and_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with site() as found:
        location = str(found.config)
        found.central.fill(30)
        found.results("fetch-page")
        assert commands.pause(location, "acme", resume=False, as_json=False) == 0
        found.central.emit(5)
        (line,) = found.results("fetch-page")
        assert (line["outcome"], line["pages"]) == ("paused", 0)
        found.results("forward-batch")
        assert len(found.raws()) == 30
        told = collect(configuration.load(location))
        assert (told["integrations"][0]["state"], told["ok"]) == ("paused", True)
        assert told["integrations"][0]["since"] is not None
        assert commands.pause(location, "acme", resume=True, as_json=True) == 0
        (line,) = found.results("fetch-page")
        assert line["events"] == 5
        assert collect(configuration.load(location))["integrations"][0]["state"] == "collecting"
    assert "until `resume`" in capsys.readouterr().out


def test_an_unknown_integration_cannot_be_paused(capsys: pytest.CaptureFixture[str]) -> None:
    with site() as found:
        assert commands.pause(str(found.config), "nobody", resume=False, as_json=False) == 2
    assert "acme" in capsys.readouterr().err
