"""A quota, and what the counted use says about it: used, remaining, when it begins anew, and of what is to be told.

All amounts are billable bytes. A quota is used up when what was used has reached the limit: the packet that reaches it
passes, the next one does not.

While a quota is held, because it is paused, or snoozed until a moment, what is used counts on, nothing is enforced
and nothing is told. What is due when the hold ends is told then, of the period that then runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any, Final, TypeVar

from esimbpf.errors import UsageError
from esimbpf.fields import LONGEST_TEXT, as_given, checked_text, naming
from esimbpf.profiles import parse_iccid
from esimbpf.spans import Cycle, Per, Span, cycle_at, span_at
from esimbpf.text import printable
from esimbpf.units import parse_rate, parse_size
from esimbpf.users import user_id, user_name

__all__ = [
    "FIELDS",
    "LIMIT",
    "MOST",
    "MOST_FOR_ALL",
    "MOST_OF_ONE",
    "NEVER",
    "Action",
    "App",
    "Cgroup",
    "Direction",
    "Event",
    "EventKind",
    "Everybody",
    "Exe",
    "Kept",
    "Quota",
    "QuotaPer",
    "Record",
    "Standing",
    "State",
    "Then",
    "User",
    "When",
    "Whom",
    "advance",
    "check_room",
    "checked_link",
    "choice",
    "counts_alike",
    "parse_duration",
    "parse_levels",
    "parse_quota",
    "period_at",
    "whom_text",
    "with_changes",
]

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a period that has none."""
LIMIT: Final = 100
"""The level, in percent, that is the limit itself."""

_LONGEST_LINK: Final = 127
"""Of an alternative name (ALTIFNAMSIZ, include/uapi/linux/if.h)."""
_RESERVED: Final = "saver"
_CGROUPS: Final = "/sys/fs/cgroup"
_HYBRID: Final = "/unified"
"""Where cgroup v2 is below that beside v1 (systemd's hybrid layout)."""
_UNIT: Final = re.compile(r"[^/\s]+\.(?:service|scope|slice|socket|mount|swap)")


# -- what was agreed ---------------------------------------------------------------------


class Direction(StrEnum):
    """Which bytes count."""

    BOTH = "both"
    DOWN = "down"
    UP = "up"


class QuotaPer(StrEnum):
    """How long a period is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    """From Monday."""
    MONTH = "month"
    CYCLE = "cycle"
    """Of the plan of the quota's link or profile."""
    ONCE = "once"
    """From when the quota was added; it never begins anew."""


class When(StrEnum):
    """Where the quota holds, if not everywhere; use of which this is not known counts for neither."""

    ROAMING = "roaming"
    HOME = "home"


class Then(StrEnum):
    """What is done at the limit."""

    NOTIFY = "notify"
    BLOCK = "block"
    THROTTLE = "throttle"


@dataclass(frozen=True, slots=True)
class App:
    """All processes of an app."""

    name: str


@dataclass(frozen=True, slots=True)
class Exe:
    """All processes of an executable file."""

    path: str


@dataclass(frozen=True, slots=True)
class Cgroup:
    """All processes in a cgroup and below it."""

    path: str
    """From the root of the cgroups on, with a slash before it; without one, the name of a systemd unit."""


@dataclass(frozen=True, slots=True)
class User:
    """All processes of a user."""

    uid: int


@dataclass(frozen=True, slots=True)
class Everybody:
    """All that crosses, what is no process's included, except that of some apps."""

    except_apps: tuple[str, ...] = ()


Whom = App | Exe | Cgroup | User | Everybody


def whom_text(whom: Whom) -> str:
    """Whom a quota is for, in words."""
    match whom:
        case App(name):
            return f"app {name}"
        case Exe(path):
            return f"executable {path}"
        case Cgroup(path):
            return f"cgroup {path}" if path.startswith("/") else f"unit {path}"
        case User(uid):
            return f"user {user_name(uid)}"
        case Everybody(()):
            return "all"
        case Everybody(apps):
            return f"all except {', '.join(apps)}"


_SLOWEST: Final = "8kbit"
_FASTEST: Final = "100Gbit"
_LEAST_BURST: Final = 4096
_BURST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Action:
    """What is done at the limit."""

    then: Then
    rate: str = ""
    """To which it is throttled, if it is; as it was written."""

    @property
    def bytes_per_second(self) -> int:
        """The rate; 0 if it is not throttled."""
        return int(parse_rate(self.rate)) if self.rate else 0

    @property
    def burst_bytes(self) -> int:
        """What may pass at once after a pause: a second's worth of the rate, as long as TCP may wait before it goes on.

        At least what a window may be that is worth offering, a few packets.
        """
        return max(_LEAST_BURST, int(self.bytes_per_second * _BURST_S)) if self.rate else 0

    def __str__(self) -> str:
        """As `do` is written."""
        return f"{self.then}:{self.rate}" if self.rate else str(self.then)


@dataclass(frozen=True, slots=True)
class Quota:
    """What was agreed; `parse_quota` makes and checks it."""

    name: str
    whom: Whom
    limit: str
    """For each period, as it was written."""
    per: QuotaPer
    action: Action
    direction: Direction = Direction.BOTH
    link: str = ""
    """Empty for every link."""
    profile: str = ""
    """The ICCID, in its normal form; empty for every SIM profile."""
    when: When | None = None
    """None for everywhere."""
    warn: tuple[int, ...] = (80, 95)
    """Percent of the limit, ascending."""
    place: str = ""
    """Where the configuration has it; empty if it was added with the command line."""

    @property
    def limit_bytes(self) -> int:
        """Of a period."""
        return parse_size(self.limit)

    @property
    def origin(self) -> str:
        """`config`, or `state` for what was added with the command line."""
        return "config" if self.place else "state"

    def is_about(self, link: str, profile: str | None, roaming: bool | None) -> bool:
        """Whether what moves over a link with a SIM profile, abroad or at home, is used of it; None is unknown."""
        return (
            self.link in ("", link)
            and self.profile in ("", profile)
            and (self.when is None or roaming is (self.when is When.ROAMING))
        )

    def to_json(self) -> dict[str, Any]:
        """As it is kept, with the fields of the configuration; version 1."""
        match self.whom:
            case App(name):
                whom: dict[str, Any] = {"app": name}
            case Exe(path):
                whom = {"exe": path}
            case Cgroup(path):
                whom = {"cgroup": path}
            case User(uid):
                whom = {"user": str(uid)}
            case Everybody(apps):
                whom = {"all": True, "except": list(apps)}
        narrower = {"link": self.link, "profile": self.profile, "when": self.when and str(self.when)}
        return {
            "v": 1,
            "name": self.name,
            **whom,
            "limit": self.limit,
            "direction": str(self.direction),
            "per": str(self.per),
            **{key: value for key, value in narrower.items() if value},
            "warn": list(self.warn),
            "do": str(self.action),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Quota:
        """What `to_json` has made."""
        return parse_quota({key: value for key, value in kept.items() if key != "v"})


MOST: Final = 4094
"""Quotas in all, as many as the kernel's maps have room for beside the saver mode."""
MOST_OF_ONE: Final = 8
"""Quotas for the same app, executable, cgroup or user."""
MOST_FOR_ALL: Final = MOST_OF_ONE - 1
"""Quotas for everybody, whoever is excepted: one place is kept for the saver mode, which is one of them."""


def check_room(quotas: Sequence[Quota]) -> None:
    """Raises UsageError if there are more quotas than may be, in all or for the same."""
    if len(quotas) > MOST:
        raise UsageError(f"{len(quotas)} quotas are too many", f"{MOST} may be")
    alike: dict[Whom, list[str]] = {}
    for quota in quotas:
        whom = Everybody() if isinstance(quota.whom, Everybody) else quota.whom
        alike.setdefault(whom, []).append(quota.name)
        most = MOST_FOR_ALL if isinstance(whom, Everybody) else MOST_OF_ONE
        if len(alike[whom]) > most:
            raise UsageError(
                f"too many quotas are for the same ({whom_text(whom)}): {', '.join(alike[whom])}",
                f"{most} may be; remove one",
            )


def with_changes(quota: Quota, changes: Mapping[str, Any]) -> Quota:
    """A quota with other terms: those of its fields that are given, as `parse_quota` takes them.

    Whom it is for is replaced as a whole; None for link, profile or when takes that away.
    """
    fields = {key: value for key, value in quota.to_json().items() if key != "v"}
    if any(field in changes for field in _WHOM):
        fields = {key: value for key, value in fields.items() if key not in (*_WHOM, "except")}
    return parse_quota({**fields, **changes})


def counts_alike(one: Quota, other: Quota) -> bool:
    """Whether both count the same bytes in the same periods, whatever is agreed about them."""
    return replace(one, limit=other.limit, action=other.action, warn=other.warn) == other


# -- what people write -------------------------------------------------------------------

FIELDS: Final = frozenset(
    (
        *("name", "app", "exe", "cgroup", "user", "all", "except", "limit", "direction", "per"),
        *("link", "profile", "when", "warn", "do"),
    )
)
_WHOM: Final = ("app", "exe", "cgroup", "user", "all")


def parse_quota(fields: Mapping[str, Any], place: str = "") -> Quota:
    """A quota from its fields, as they are written in the configuration and on the command line.

    None is as good as left out. Raises UsageError, which names the field, what was given and what is allowed.
    """
    given = {key: value for key, value in fields.items() if value is not None}
    name = _name(_text(given, "name", f"1 to {LONGEST_TEXT} characters"))
    quota = Quota(
        name=name,
        whom=_whom(given),
        limit=_limit(given),
        per=_choice(given, QuotaPer, "per"),
        action=_action(_text(given, "do", _ACTIONS)),
        direction=_choice(given, Direction, "direction") if "direction" in given else Direction.BOTH,
        link=checked_link(_text(given, "link", _VISIBLE)) if "link" in given else "",
        profile=parse_iccid(_text(given, "profile", "an ICCID")) if "profile" in given else "",
        when=_choice(given, When, "when") if "when" in given else None,
        warn=parse_levels(given["warn"], LIMIT - 1) if "warn" in given else (80, 95),
        place=place,
    )
    if not quota.limit_bytes and quota.action.then is not Then.BLOCK:
        raise UsageError(
            f"limit {quota.limit!r} leaves nothing to {quota.action.then}", "give more than 0 bytes, or: do block"
        )
    return quota


_VISIBLE: Final = "characters that can be seen"


def _text(given: Mapping[str, Any], field: str, allowed: str) -> str:
    """What was given as text."""
    if field not in given:
        raise UsageError(f"{field} is missing", f"give it: {allowed}")
    value = given[field]
    if not isinstance(value, str):
        raise UsageError(
            f"{field} {as_given(value)} is no text", f'write it in quotation marks: {field} = "…", with {allowed}'
        )
    return value


def _name(text: str) -> str:
    if text == _RESERVED:
        raise UsageError(f"name {text!r} is taken by the saver mode", "give another name")
    return checked_text("name", text)


def checked_link(text: str) -> str:
    """The name of a link, which need not be there; UsageError if no link can have it."""
    if "/" in text or " " in text or text in (".", ".."):
        raise UsageError(
            f"link {printable(text)!r} is no interface's name",
            f"give 1 to {_LONGEST_LINK} characters, no space and no slash; esimbpf links shows which there are",
        )
    return checked_text("link", text, _LONGEST_LINK)


_PATH: Final = 4095
"""PATH_MAX without its NUL (include/uapi/linux/limits.h)."""


def _whom(given: Mapping[str, Any]) -> Whom:
    if not isinstance(given.get("all", False), bool):
        raise UsageError(f"all {as_given(given['all'])} is neither true nor false", "write: all = true")
    named = [field for field in _WHOM if given.get(field, False) is not False]
    if len(named) != 1:
        what = f"said {len(named)} times: {', '.join(named)}" if named else "missing"
        raise UsageError(f"whom it is for is {what}", f"give one of: {', '.join(_WHOM)}")
    if "except" in given and named != ["all"]:
        raise UsageError(f"except goes with all, and {named[0]} was given", "leave except out, or give all")
    match named[0]:
        case "app":
            return App(checked_text("app", _text(given, "app", _VISIBLE), 255))
        case "exe":
            path = checked_text("exe", _text(given, "exe", "the path of a file"), _PATH)
            if not path.startswith("/") or path.endswith("/"):
                raise UsageError(f"exe {path!r} is no path of a file from the root on", "for example: /usr/bin/restic")
            return Exe(path)
        case "cgroup":
            return Cgroup(_cgroup(checked_text("cgroup", _text(given, "cgroup", "a path or a unit"), _PATH)))
        case "user":
            user = given["user"]
            is_id = isinstance(user, int) and not isinstance(user, bool)
            text = str(user) if is_id else _text(given, "user", "a name or an id")
            try:
                return User(user_id(text))
            except UsageError as error:
                raise UsageError(f"user {printable(text)!r} is nobody's name or id", error.hint) from error
        case _:
            return Everybody(_except(given.get("except", ())))


def _cgroup(text: str) -> str:
    path = text.rstrip("/")
    if path.startswith(f"{_CGROUPS}/"):
        path = path.removeprefix(_CGROUPS).removeprefix(_HYBRID)
    if _UNIT.fullmatch(path) or (path.startswith("/") and path != _CGROUPS and ".." not in path.split("/")):
        return path
    raise UsageError(
        f"cgroup {text!r} is neither a path below {_CGROUPS} nor a unit",
        "for example: /system.slice/backup.service, or backup.service; for all there is: all",
    )


def _except(given: object) -> tuple[str, ...]:
    apps = [given] if isinstance(given, str) else given
    if not isinstance(apps, list | tuple) or not all(isinstance(app, str) for app in apps):
        raise UsageError(f"except {as_given(given)} is no list of apps", 'write: except = ["ssh", "backup"]')
    return tuple(dict.fromkeys(checked_text("except", app, 255) for app in apps))


def _limit(given: Mapping[str, Any]) -> str:
    limit = given.get("limit")
    text = str(limit) if isinstance(limit, int) and not isinstance(limit, bool) else ""
    text = text or _text(given, "limit", "a size as 500MB, 1.5GiB or 1200B")
    with naming("limit"):
        parse_size(text)
    return text.strip()


_ACTIONS: Final = "notify, block, or throttle:RATE as in throttle:128kbit"


def _action(text: str) -> Action:
    kind, colon, rate = text.partition(":")
    if kind not in tuple(Then) or bool(colon) != (kind == Then.THROTTLE):
        raise UsageError(f"do {printable(text)!r} is nothing that can be done", f"give one of: {_ACTIONS}")
    if not colon:
        return Action(Then(kind))
    with naming(f"do {printable(text)!r}:"):
        fits = parse_rate(_SLOWEST) <= parse_rate(rate) <= parse_rate(_FASTEST)
    if not fits:
        raise UsageError(
            f"do {printable(text)!r} is too slow or too fast", f"give a rate from {_SLOWEST} to {_FASTEST}"
        )
    return Action(Then.THROTTLE, rate.strip())


def parse_levels(given: object, most: int) -> tuple[int, ...]:
    """Percentages at which to warn, ascending: of a list of numbers up to `most`, or of text as `80,95` or `none`.

    Raises UsageError.
    """
    if isinstance(given, str):
        parts = [] if given == "none" else [part.strip() for part in given.split(",")]
        levels = [int(part) if re.fullmatch("[0-9]{1,4}", part) else 0 for part in parts]
    else:
        levels = [one if type(one) is int else 0 for one in given] if isinstance(given, list | tuple) else [0]
    if not all(1 <= level <= most for level in levels):
        always = "; at the limit itself it is always told" if most < LIMIT else ""
        raise UsageError(
            f"warn {as_given(given)} is no list of percentages",
            f"give numbers from 1 to {most}, for example 80,95, or none{always}",
        )
    return tuple(sorted(set(levels)))


_Chosen = TypeVar("_Chosen", bound=StrEnum)


def choice(kind: type[_Chosen], field: str, text: str) -> _Chosen:
    """What was chosen for a field; UsageError if it is none of what there is."""
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(
            f"{field} {printable(text)!r} is none of what there is", f"give one of: {_choices(kind)}"
        ) from error


def _choice(given: Mapping[str, Any], kind: type[_Chosen], field: str) -> _Chosen:
    return choice(kind, field, _text(given, field, f"one of: {_choices(kind)}"))


def _choices(kind: type[StrEnum]) -> str:
    return ", ".join(kind)


_DURATION: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_MINUTES: Final = {"m": 1, "h": 60, "d": 1440, "w": 10080}
_LONGEST: Final = timedelta(days=366)


def parse_duration(text: str) -> timedelta:
    """A duration: `30m`, `2h`, `1d`, `1w`; UsageError if it is none, or longer than a year."""
    found = _DURATION.fullmatch(text)
    duration = timedelta(minutes=int(found[1]) * _MINUTES[found[2]]) if found else timedelta(0)
    if not timedelta(0) < duration <= _LONGEST:
        raise UsageError(
            f"{printable(text)!r} is no duration from a minute to a year", "write it as 30m, 2h, 1d or until-reset"
        )
    return duration


# -- how it stands -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A quota, and what is known of it beside what was agreed."""

    quota: Quota
    added: datetime
    """Since when it counts."""
    said_bytes: int | None = None
    """What had been used, at `added`, of the period in which that was, as a person said; None if nobody did."""
    counted_bytes: int = 0
    """What the ledger had of it at `added`, and `said_bytes` stands for."""
    paused: bool = False
    snoozed_until: datetime | None = None

    @property
    def key(self) -> tuple[str, float]:
        """Its name and, in seconds, since when it counts: one that was removed and added anew is another one."""
        return self.quota.name, self.added.timestamp()


def period_at(kept: Kept, moment: datetime, zone: tzinfo, cycle: Cycle | None = None) -> Span | None:
    """The period of a quota in which a moment lies; None if it lies in none.

    Per cycle that is so without a plan's cycle, and before and after a single one.
    """
    match kept.quota.per:
        case QuotaPer.ONCE:
            return Span(kept.added, NEVER)
        case QuotaPer.CYCLE:
            return cycle_at(cycle, moment, zone) if cycle else None
        case per:
            return span_at(Per(per.value), moment, zone)


class State(StrEnum):
    """What a quota does."""

    IN_FORCE = "in force"
    EXCEEDED = "exceeded"
    """It is in force, and the limit has been reached."""
    PAUSED = "paused"
    SNOOZED = "snoozed"
    NOT_IN_FORCE = "not in force"
    """It has no period at the moment."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a quota stands at a moment."""

    kept: Kept
    now: datetime
    zone: tzinfo
    """In which its periods begin."""
    period: Span | None
    used_bytes: int = 0
    reason: str = ""
    """Why there is no period, if there is none."""

    @property
    def remaining_bytes(self) -> int:
        """Of the limit; 0 if it is used up."""
        return max(0, self.kept.quota.limit_bytes - self.used_bytes)

    @property
    def used_part(self) -> float:
        """Of the limit; more than 1 if more was used."""
        limit = self.kept.quota.limit_bytes
        return self.used_bytes / limit if limit else 1.0

    @property
    def levels(self) -> tuple[int, ...]:
        """Those that are reached, in percent and ascending, the limit itself (100) included."""
        limit = self.kept.quota.limit_bytes
        # Of a limit of nothing there is no part.
        levels = (*self.kept.quota.warn, LIMIT) if limit else (LIMIT,)
        return tuple(level for level in levels if self.used_bytes * LIMIT >= limit * level) if self.period else ()

    @property
    def exceeded(self) -> bool:
        """Whether the limit has been reached."""
        return LIMIT in self.levels

    @property
    def resets(self) -> datetime | None:
        """When the next period begins; None if none does, or it is not known when."""
        return self.period.end if self.period and self.period.end != NEVER else None

    @property
    def snoozed(self) -> bool:
        """Whether it is held until a moment that has not come."""
        return self.kept.snoozed_until is not None and self.now < self.kept.snoozed_until

    @property
    def held(self) -> bool:
        """Whether it only counts, and neither is enforced nor tells anything."""
        return self.kept.paused or self.snoozed

    @property
    def enforceable(self) -> bool:
        """Whether anything is to be done at the limit."""
        return not (self.held or self.period is None)

    @property
    def state(self) -> State:
        """What the quota does."""
        if self.kept.paused:
            return State.PAUSED
        if self.snoozed:
            return State.SNOOZED
        if self.period is None:
            return State.NOT_IN_FORCE
        return State.EXCEEDED if self.exceeded else State.IN_FORCE


# -- of what is to be told ---------------------------------------------------------------


class EventKind(StrEnum):
    """What has happened to a quota."""

    WARNING = "quota.warning"
    EXCEEDED = "quota.exceeded"
    RESET = "quota.reset"


@dataclass(frozen=True, slots=True)
class Event:
    """Of what is to be told."""

    kind: EventKind
    standing: Standing
    level: int | None = None
    """In percent, of a warning."""


@dataclass(frozen=True, slots=True)
class Record:
    """What has been told of a period."""

    period: Span
    limit_bytes: int
    """For which the levels were reached."""
    fired: tuple[int, ...] = ()
    """The levels of which was told, in percent and ascending, 100 for the limit itself."""


def advance(standing: Standing, known: Sequence[Record]) -> tuple[Record | None, tuple[Event, ...]]:
    """What is due by how a quota stands, and the period's record after it; none without a period.

    `known` are the records of all periods that the quota has been in, so that each event is told once for each period,
    wherever the clock is set in between: a period that has been entered is never entered again, and none is passed
    over for the sake of a later one. Where the limit was changed, and where periods are cut anew (in another zone, or
    by another plan), only those levels stay told that are still reached.
    """
    if standing.period is None:
        return None, ()
    period, limit, reached = standing.period, standing.kept.quota.limit_bytes, standing.levels
    same = [one for one in known if one.period.begin == period.begin]
    before = same or [one for one in known if one.period.begin < period.end and period.begin < one.period.end]
    fired = {level for one in before for level in one.fired}
    if not same or same[0].limit_bytes != limit:
        fired &= set(reached)
    if standing.held:
        return Record(period, limit, tuple(sorted(fired))), ()
    events = [Event(EventKind.RESET, standing)] if known and not before else []
    for level in reached:
        if level not in fired:
            told = (EventKind.EXCEEDED, None) if level == LIMIT else (EventKind.WARNING, level)
            events.append(Event(told[0], standing, told[1]))
    return Record(period, limit, tuple(sorted(fired | set(reached)))), tuple(events)
