"""The list of links as a person and as a program sees it."""

from __future__ import annotations

import json

from rich.console import Console

from esimbpf.cellular import Certainty
from esimbpf.kernel.links import FoundLink
from esimbpf.model import Link
from esimbpf.modem.identity import Identity, LinkStatus
from esimbpf.modem.model import Modem, ModemState, Operator, Registration, Signal
from esimbpf.modem.numbering import Plmn
from esimbpf.sinks.links import Owned, links_json, links_table

LO = FoundLink(Link("lo", 1, "loopback", ("127.0.0.1", "::1")), 772, Certainty.NO, mtu=65536)
ETH0 = FoundLink(
    Link("eth0", 2, "ethernet", ("192.0.2.2", "fe80::1")), 1, Certainty.NO, driver="e1000e", mtu=1500, operstate="up"
)
USB0 = FoundLink(
    Link("usb0", 3, "ethernet", (), up=False),
    1,
    Certainty.NO,
    note="perhaps a tethered phone or a modem (rndis_host)",
    driver="rndis_host",
)
PPP0 = FoundLink(
    Link("ppp0", 4, "ppp", ("10.0.0.9",)),
    512,
    Certainty.WEAK,
    ("name ppp*",),
    "a modem's dial-up line, a VPN or DSL",
)
WWAN0 = FoundLink(
    Link("wwan0", 5, "wwan"),
    65534,
    Certainty.YES,
    ("DEVTYPE=wwan", "driver qmi_wwan"),
    driver="qmi_wwan",
    operstate="down",
    altnames=("wwp0s20f0u2i4",),
    uppers=("qmimux0",),
)
QMIMUX0 = FoundLink(
    Link("qmimux0", 6, "none", ("10.64.7.2", "2001:db8:1234:5678:9abc:def0:1234:5678")),
    65534,
    Certainty.YES,
    ("upon wwan0",),
    lower="wwan0",
)


ICCID = "8949020000001234567"
MODEM = Modem(
    "/m/0",
    ModemState.CONNECTED,
    manufacturer="Quectel",
    model="RM520N-GL",
    plugin="quectel",
    signal=Signal(57, True, "lte", -61.0, -94.5),
)
OWNED = {
    "qmimux0": (
        MODEM,
        LinkStatus(
            Identity(ICCID, True, Operator(Plmn("232", "01"), "A1 [bold]"), True, "AT", "lte"),
            Registration.ROAMING,
            "/m/0",
            "/b/0",
            True,
        ),
    ),
    "wwan0": (MODEM, LinkStatus(registration=Registration.SEARCHING, modem="/m/0", connected=False)),
    "elsewhere": (MODEM, LinkStatus()),
}


def shown(
    found: list[FoundLink], counted: list[FoundLink], width: int, owned: Owned | None = None, show_ids: bool = False
) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(links_table(found, counted, width, owned or {}, show_ids))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


TABLE = """\
link       kind      state       addresses          cellular  because
────────────────────────────────────────────────────────────────────────────────
  wwan0    wwan      no carrier                     yes       DEVTYPE=wwan
                                                              driver qmi_wwan
                                                              carries qmimux0
* qmimux0  none      up          10.64.7.2          yes       upon wwan0
                                 2001:db8:1234:567
                                 8:9abc:def0:1234:
                                 5678
  ppp0     ppp       up          10.0.0.9           weak      name ppp*
                                                              a modem's dial-up
                                                              line, a VPN or DSL
  lo       loopback  up          127.0.0.1          no
                                 ::1
  eth0     ethernet  up          192.0.2.2          no
  usb0     ethernet  down                           no        perhaps a tethered
                                                              phone or a modem
                                                              (rndis_host)

* counted when no link is named
"""


def test_the_whole_table_at_80_columns() -> None:
    assert shown([LO, ETH0, USB0, PPP0, WWAN0, QMIMUX0], [QMIMUX0], 80) + "\n" == TABLE


MODEMS = """\
link       modem              operator          network           profile
────────────────────────────────────────────────────────────────────────────────
  wwan0    Quectel RM520N-GL  unknown           searching         unknown
  qmimux0  Quectel RM520N-GL  232-01 A1 [bold]  roaming in AT,    eSIM 8949…4567
                                                lte

* counted when no link is named
"""


def test_links_of_modems_have_a_table_of_their_own() -> None:
    text = shown([LO, WWAN0, QMIMUX0], [QMIMUX0], 80, OWNED)
    assert text[text.index("link       modem") :] + "\n" == MODEMS
    assert ICCID in shown([QMIMUX0], [QMIMUX0], 120, OWNED, show_ids=True)


def test_links_that_need_not_be_named_are_said_to_be_none() -> None:
    assert shown([LO], [], 80).splitlines()[-1] == "no link is counted unless it is named, as in: esimbpf top NAME"


def test_the_table_fits_a_narrow_terminal_without_losing_an_address() -> None:
    text = shown([QMIMUX0], [QMIMUX0], 60)
    assert max(map(len, text.splitlines())) <= 60
    start, end = text.index("addresses"), text.index("cellular")
    column = "".join(line[start:end].strip() for line in text.splitlines()[2:-2])
    assert column == "10.64.7.22001:db8:1234:5678:9abc:def0:1234:5678"


def test_markup_in_a_name_is_text() -> None:
    hostile = FoundLink(Link(r"[bold red]x\x1b", 7, "tun"), 65534, Certainty.NO)
    assert r"[bold red]x\x1b" in shown([hostile], [], 80)


def test_json_has_every_link_by_ifindex_with_what_is_known_of_it() -> None:
    line = links_json([ETH0, WWAN0, QMIMUX0], [QMIMUX0])
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert (document["type"], document["v"]) == ("links", 1)
    assert [entry["link"] for entry in document["links"]] == ["eth0", "wwan0", "qmimux0"]
    assert [entry["counted_by_default"] for entry in document["links"]] == [False, False, True]
    assert document["links"][1] == {
        "link": "wwan0",
        "altnames": ["wwp0s20f0u2i4"],
        "ifindex": 5,
        "kind": "wwan",
        "device_type": 65534,
        "driver": "qmi_wwan",
        "up": True,
        "operstate": "down",
        "mtu": 0,
        "addresses": [],
        "cellular": "yes",
        "evidence": ["DEVTYPE=wwan", "driver qmi_wwan"],
        "note": None,
        "lower": None,
        "uppers": ["qmimux0"],
        "counted_by_default": False,
        "modem": None,
    }
    assert document["links"][2]["lower"] == "wwan0"
    assert document["links"][0]["cellular"] == "no"


def test_json_has_what_the_modem_tells() -> None:
    [wwan0, qmimux0] = json.loads(links_json([WWAN0, QMIMUX0], [QMIMUX0], OWNED))["links"]
    assert qmimux0["modem"] == {
        "name": "Quectel RM520N-GL",
        "state": "connected",
        "plugin": "quectel",
        "profile": "8949…4567",
        "esim": True,
        "operator": {"plmn": "232-01", "name": "A1 [bold]"},
        "registration": "roaming",
        "roaming": True,
        "country": "AT",
        "technology": "lte",
        "connected": True,
        "signal": {
            "quality_percent": 57,
            "technology": "lte",
            "rssi_dbm": -61.0,
            "rsrp_dbm": -94.5,
            "rsrq_db": None,
            "snr_db": None,
        },
    }
    assert (wwan0["modem"]["profile"], wwan0["modem"]["operator"], wwan0["modem"]["roaming"]) == (None, None, None)
    assert json.loads(links_json([QMIMUX0], [], OWNED, show_ids=True))["links"][0]["modem"]["profile"] == ICCID


def test_json_of_no_links_is_an_empty_list() -> None:
    assert json.loads(links_json([], [])) == {"type": "links", "v": 1, "links": []}


def test_on_a_narrow_terminal_a_link_is_a_paragraph() -> None:
    console = Console(width=20, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(links_table([LO, QMIMUX0], [QMIMUX0], width=20))
    assert [line.rstrip() for line in capture.get().splitlines()][:9] == [
        "* qmimux0",
        "  none, up",
        "  10.64.7.2",
        "  2001:db8:1234:5678",
        ":9abc:def0:1234:5678",
        "  cellular: yes",
        "  upon wwan0",
        "",
        "  lo",
    ]


def test_on_a_narrow_terminal_the_modem_is_in_the_paragraph() -> None:
    lines = shown([QMIMUX0], [QMIMUX0], 40, OWNED).splitlines()
    assert lines[lines.index("  upon wwan0") + 1 :][:4] == [
        "  modem: Quectel RM520N-GL",
        "  operator: 232-01 A1 [bold]",
        "  network: roaming in AT, lte",
        "  profile: eSIM 8949…4567",
    ]
