"""When a change of a link is told, and as of when; and what is no USSD code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esimbpf.errors import UsageError
from esimbpf.modem import ussd
from esimbpf.modem.changes import LATEST_NS, SETTLED_NS, Change, Chronicle, Known
from esimbpf.modem.identity import NO_MODEM, Identity, LinkStatus
from esimbpf.modem.model import Moment, Operator, Registration
from esimbpf.modem.numbering import Plmn

HOME = LinkStatus(
    Identity("8949020000001234567", True, Operator(Plmn("262", "01"), "Home"), False, "DE", "lte"),
    Registration.HOME,
    "/m/0",
    "/b/0",
    True,
)
HALF = replace(HOME, identity=replace(HOME.identity, operator=Operator(Plmn("232", "01"), "Home"), country="AT"))
ABROAD = replace(
    HOME,
    identity=replace(HOME.identity, operator=Operator(Plmn("232", "01"), "A1"), country="AT", roaming=True),
    registration=Registration.ROAMING,
)
BEGUN = Moment(0, 1_700_000_000 * 10**9)


def at(ns: int) -> Moment:
    return Moment(ns, BEGUN.wall_ns + ns)


@pytest.fixture
def chronicle() -> Chronicle:
    """Of a link that is a modem's since 1 ns."""
    chronicle = Chronicle(BEGUN)
    assert chronicle.take({"wwan0": HOME}, at(1)) == [Change("wwan0", NO_MODEM, HOME, at(1))]
    return chronicle


def test_a_link_is_no_modems_since_the_beginning() -> None:
    assert Chronicle(BEGUN).known("wwan0") == Known(NO_MODEM, BEGUN)


def test_another_network_is_told_when_it_has_held_as_of_its_first_step(chronicle: Chronicle) -> None:
    assert chronicle.take({"wwan0": HALF}, at(100)) == []
    assert chronicle.take({"wwan0": ABROAD}, at(200)) == []
    assert chronicle.known("wwan0").status == HOME
    assert chronicle.due_ns == 200 + SETTLED_NS
    assert chronicle.pass_time(at(199 + SETTLED_NS)) == []
    assert chronicle.pass_time(at(200 + SETTLED_NS)) == [Change("wwan0", HOME, ABROAD, at(100))]
    assert chronicle.known("wwan0") == Known(ABROAD, at(100))
    assert chronicle.pass_time(at(10 * LATEST_NS)) == []


def test_a_network_that_never_settles_is_told_at_the_latest(chronicle: Chronicle) -> None:
    told = []
    for number in range(20):
        told += chronicle.take({"wwan0": (HALF, ABROAD)[number % 2]}, at(100 + number * SETTLED_NS // 2))
    assert told[0].at == at(100)
    assert len(told) == 20 * SETTLED_NS // 2 // LATEST_NS


def test_what_is_as_it_was_was_no_change(chronicle: Chronicle) -> None:
    chronicle.take({"wwan0": HALF}, at(100))
    assert chronicle.take({"wwan0": HOME}, at(200)) == []
    assert chronicle.due_ns is None


@pytest.mark.parametrize(
    "after",
    [
        replace(ABROAD, connected=False, bearer=""),
        replace(ABROAD, modem="/m/1"),
        replace(ABROAD, identity=replace(ABROAD.identity, profile=None)),
        NO_MODEM,
    ],
)
def test_another_modem_profile_or_connection_is_told_at_once_with_what_was_waiting(
    chronicle: Chronicle, after: LinkStatus
) -> None:
    chronicle.take({"wwan0": HALF}, at(100))
    assert chronicle.take({"wwan0": after}, at(150)) == [Change("wwan0", HOME, after, at(150))]
    assert chronicle.due_ns is None


def test_links_are_told_of_each_for_itself(chronicle: Chronicle) -> None:
    chronicle.take({"wwan0": ABROAD}, at(100))
    told = chronicle.take({"wwan0": ABROAD, "wwan1": HOME}, at(200))
    assert told == [Change("wwan1", NO_MODEM, HOME, at(200))]
    assert chronicle.links() == {"wwan0": HOME, "wwan1": HOME}
    assert [one.link for one in chronicle.take({"wwan1": HOME}, at(300))] == ["wwan0"]
    assert chronicle.links() == {"wwan1": HOME}


@pytest.mark.parametrize("code", ["", "100", "*100", "100#", "*100#;AT", "*\x1b#", "*1" * 91 + "#", "tel:*100#"])
def test_what_is_no_ussd_code_is_not_dialled(code: str) -> None:
    with pytest.raises(UsageError, match="is no USSD code"):
        ussd.ask(code, address="unix:path=/nonexistent")


@pytest.mark.parametrize("step", ["", "1" * 183, "1\r"])
def test_what_cannot_be_chosen_is_not_sent(step: str) -> None:
    with pytest.raises(UsageError, match="is nothing that can be chosen"):
        ussd.ask("*100#", ["1", step], address="unix:path=/nonexistent")
