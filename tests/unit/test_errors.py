"""The kinds of failure: each is stated once, and whole."""

import emulator.runtime.functions
import emulator.utmstack.settings
import emulator.web.actions
import emulator.web.context
import lib.errors
import lib.http.access
import lib.pipeline.checks
import lib.tasks
from lib.errors import ConnectorError, catalogue, title_of

STATING = (
    emulator.runtime.functions,
    emulator.web.actions,
    emulator.web.context,
    lib.http.access,
    lib.pipeline.checks,
    lib.tasks,
    emulator.utmstack.settings,
)
"""The modules that have kinds of their own, beside `lib.errors`."""


def kinds(kind: type[ConnectorError] = ConnectorError) -> set[type[ConnectorError]]:
    return {kind}.union(*(kinds(each) for each in kind.__subclasses__()))


def test_each_kind_of_failure_has_one_code_one_title_and_a_remedy() -> None:
    stated = [each for each in kinds() if "code" in vars(each)]
    assert len(stated) == len({each.code for each in stated}) == len({each.title for each in stated})
    for each in stated:
        assert {"title", "remedy"} <= set(vars(each)) or each is ConnectorError, each
        assert each.remedy.endswith("."), each
        assert not each.title.endswith("."), each
    assert len(stated) > 25


def test_the_catalogue_names_each_kind_by_its_code() -> None:
    for code, kind in catalogue().items():
        assert (kind.code, title_of(code)) == (code, kind.title)
    assert title_of("what an older version wrote") == ConnectorError.title


def test_the_drawing_of_the_failures_shows_each_of_them() -> None:
    here = {each.__name__ for each in kinds() if each.__module__ == "lib.errors"}
    assert {name for name in here if name not in str(lib.errors.__doc__)} == set()


def test_what_people_are_shown_is_of_the_kind_and_of_the_case() -> None:
    told = lib.errors.NoAnswerError("GET / at example.com: no answer in time").as_problem()
    assert told["detail"] == "GET / at example.com: no answer in time"
    assert (told["code"], told["title"], told["remedy"]) == (
        "timed_out",
        "Sophos does not answer in time",
        lib.errors.NoAnswerError.remedy,
    )
