"""What has happened that somebody may want to act on: events, version 1, as JSON and as variables for hooks.

    quota.warning    a quota's use has reached a level     quota.exceeded   it has reached the limit
    quota.reset      a quota's next period has begun
    plan.warning     a plan's use has reached a level      plan.exhausted   its allowance is used up
    app.first-seen   an app has used a link for the first time, ever
    app.rapid-use    an app has used 100 MB in five minutes; told once an hour
    link.up          a link is counted (again)             link.down        it is gone
    roaming.started  a link's network is not at home       roaming.ended    it is again
    tracer.gap       for some time nothing was counted

The JSON Schema of an event is that of `esimbpf watch`'s lines, type `event`. Fields and kinds of events are added
within version 1, never changed. What is unknown is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from esimbpf.modem.identity import Identity
from esimbpf.profiles import ProfileNames
from esimbpf.spans import rfc3339
from esimbpf.units import bytes_text

__all__ = [
    "NEEDED",
    "VERSION",
    "Event",
    "EventType",
    "example",
    "link_down",
    "link_up",
    "roaming_changed",
    "tracer_gap",
]

VERSION: Final = 1


class EventType(StrEnum):
    """What has happened."""

    QUOTA_WARNING = "quota.warning"
    QUOTA_EXCEEDED = "quota.exceeded"
    QUOTA_RESET = "quota.reset"
    PLAN_WARNING = "plan.warning"
    PLAN_EXHAUSTED = "plan.exhausted"
    APP_FIRST_SEEN = "app.first-seen"
    APP_RAPID_USE = "app.rapid-use"
    LINK_UP = "link.up"
    LINK_DOWN = "link.down"
    ROAMING_STARTED = "roaming.started"
    ROAMING_ENDED = "roaming.ended"
    TRACER_GAP = "tracer.gap"


_USE: Final = ("used_bytes", "limit_bytes", "period_begin")

NEEDED: Final[Mapping[EventType, tuple[str, ...]]] = {
    EventType.QUOTA_WARNING: ("quota", "level_percent", *_USE),
    EventType.QUOTA_EXCEEDED: ("quota", "level_percent", *_USE),
    EventType.QUOTA_RESET: ("quota", "period_begin"),
    EventType.PLAN_WARNING: ("plan", "level_percent", *_USE),
    EventType.PLAN_EXHAUSTED: ("plan", "level_percent", *_USE),
    EventType.APP_FIRST_SEEN: ("app",),
    EventType.APP_RAPID_USE: ("app", "used_bytes", "period_begin", "period_end"),
    EventType.LINK_UP: ("link",),
    EventType.LINK_DOWN: ("link",),
    EventType.ROAMING_STARTED: ("link",),
    EventType.ROAMING_ENDED: ("link",),
    EventType.TRACER_GAP: ("cause", "period_begin", "period_end"),
}
"""The fields that an event of a type always has."""

_OWNERS: Final = {"quota": "quota", "plan": "plan", "app": "app", "link": "link", "roaming": "link", "tracer": "link"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. Texts are safe to print (esimbpf.text); ValueError if a field is missing that its type needs."""

    type: EventType
    time: datetime
    quota: str | None = None
    plan: str | None = None
    """Its target: `link:NAME` or `profile:ICCID`."""
    app: str | None = None
    user: str | None = None
    link: str | None = None
    profile: str | None = None
    network: str | None = None
    """MCC and MNC of the network that serves, with its name."""
    country: str | None = None
    """In which that is, by ISO 3166-1 alpha-2."""
    level_percent: int | None = None
    """Of the limit, that was reached."""
    used_bytes: int | None = None
    """In the period, when the event was written down."""
    limit_bytes: int | None = None
    period_begin: datetime | None = None
    period_end: datetime | None = None
    """None too for a period without an end."""
    added: datetime | None = None
    """Since when the quota counts: one that was removed and added anew is another one."""
    action: str | None = None
    """What the quota does about it."""
    cause: str | None = None
    cgroups: tuple[str, ...] = ()
    """Of what it is about, those in which nothing else is, as paths from the root of cgroup v2: `/user.slice/…`. Of an
    app that has none of its own there are none."""
    pids: tuple[int, ...] = ()
    """The living processes of what it is about that have used the network, those in the cgroups included."""

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED[self.type] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"an event {self.type} needs {', '.join(missing)}")

    @property
    def subject(self) -> str:
        """What it is about, as in `quota:NAME`: events of one subject are handed out in their order."""
        kind = self.type.partition(".")[0]
        name: str | None = getattr(self, _OWNERS[kind])
        return kind if name is None else f"{kind}:{name}"

    @property
    def id(self) -> str:
        """Type, subject, beginning of the period in ms, level: an event of the same id is the same event.

        Of a quota also the limit, and since when it counts, in ms: with another one the levels are reached anew. An app
        is seen first only once; what has no period happens at its time.
        """
        begin = self.period_begin or self.time
        begin_ms = 0 if self.type is EventType.APP_FIRST_SEEN else _ms(begin)
        parts = [self.type.value, self.subject, begin_ms, self.level_percent or 0]
        if self.added:
            parts += [self.limit_bytes or 0, _ms(self.added)]
        return "/".join(map(str, parts))

    @property
    def message(self) -> str:
        """One line for people."""
        return _MESSAGES[self.type].format(
            **{name: getattr(self, name) for name in ("quota", "plan", "app", "cause", "level_percent")},
            link=self.link or "the links",
            network=self.network or "unknown",
            country=self.country or "a country that is not known",
            used="?" if self.used_bytes is None else bytes_text(self.used_bytes),
            limit="?" if self.limit_bytes is None else bytes_text(self.limit_bytes),
            begin=_shown(self.period_begin),
            end=_shown(self.period_end),
        )

    def named(self, names: ProfileNames) -> Event:
        """The event as it may be shown, its id included: with the numbers of SIM profiles as `names` has them."""
        return replace(
            self,
            plan=self.plan and names.target(self.plan),
            profile=self.profile and names.number(self.profile),
        )

    def to_json(self) -> dict[str, Any]:
        """The object that hooks and readers of `watch` get, once it is `named`; the ledger keeps it as it is."""
        return {
            "type": "event",
            "v": VERSION,
            "time": rfc3339(self.time),
            "event": self.type.value,
            "id": self.id,
            "subject": self.subject,
            "message": self.message,
            "quota": self.quota,
            "plan": self.plan,
            "app": self.app,
            "user": self.user,
            "link": self.link,
            "profile": self.profile,
            "network": self.network,
            "country": self.country,
            "level_percent": self.level_percent,
            "used_bytes": self.used_bytes,
            "limit_bytes": self.limit_bytes,
            "period_begin": rfc3339(self.period_begin),
            "period_end": rfc3339(self.period_end),
            "added": rfc3339(self.added),
            "action": self.action,
            "cause": self.cause,
            "cgroups": list(self.cgroups),
            "pids": list(self.pids),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Event:
        """The event that `to_json` made an object of, to the millisecond."""
        return cls(
            type=EventType(line["event"]),
            time=datetime.fromisoformat(line["time"]),
            period_begin=_moment(line["period_begin"]),
            period_end=_moment(line["period_end"]),
            # Those of before this was a field are in ledgers.
            added=_moment(line.get("added")),
            network=line.get("network"),
            country=line.get("country"),
            cgroups=tuple(line["cgroups"]),
            pids=tuple(line["pids"]),
            **{name: line[name] for name in _PLAIN},
        )

    def variables(self) -> dict[str, str]:
        """What a hook finds in its environment; empty where unknown. Lists are only in the JSON."""
        line = self.to_json()
        named = {name: line[field] for name, field in _VARIABLES.items()}
        return {f"ESIMBPF_{name}": "" if value is None else str(value) for name, value in named.items()}


_PLAIN: Final = (
    *("quota", "plan", "app", "user", "link", "profile"),
    *("level_percent", "used_bytes", "limit_bytes", "action", "cause"),
)

_VARIABLES: Final = {
    "EVENT": "event",
    "EVENT_V": "v",
    "EVENT_ID": "id",
    "TIME": "time",
    "MESSAGE": "message",
    "QUOTA": "quota",
    "PLAN": "plan",
    "APP": "app",
    "USER": "user",
    "LINK": "link",
    "PROFILE": "profile",
    "NETWORK": "network",
    "COUNTRY": "country",
    "LEVEL_PERCENT": "level_percent",
    "USED_BYTES": "used_bytes",
    "LIMIT_BYTES": "limit_bytes",
    "PERIOD_BEGIN": "period_begin",
    "PERIOD_END": "period_end",
    "ACTION": "action",
}

_MESSAGES: Final = {
    EventType.QUOTA_WARNING: "quota {quota}: {used} of {limit} used, {level_percent} % reached",
    EventType.QUOTA_EXCEEDED: "quota {quota}: {used} of {limit} used, the limit is reached",
    EventType.QUOTA_RESET: "quota {quota}: a new period has begun",
    EventType.PLAN_WARNING: "plan of {plan}: {used} of {limit} used, {level_percent} % reached",
    EventType.PLAN_EXHAUSTED: "plan of {plan}: {used} of {limit} used, nothing is left",
    EventType.APP_FIRST_SEEN: "app {app}: uses {link} for the first time",
    EventType.APP_RAPID_USE: "app {app}: {used} from {begin} to {end}",
    EventType.LINK_UP: "link {link}: it is there and counted",
    EventType.LINK_DOWN: "link {link}: it is gone",
    EventType.ROAMING_STARTED: "link {link}: roaming in {country}, network {network}",
    EventType.ROAMING_ENDED: "link {link}: at home again, network {network}",
    EventType.TRACER_GAP: "nothing was counted of {link} from {begin} to {end}: {cause}",
}


def link_up(link: str, time: datetime) -> Event:
    """A link has come and is counted."""
    return Event(type=EventType.LINK_UP, time=time, link=link)


def link_down(link: str, time: datetime) -> Event:
    """A link is gone."""
    return Event(type=EventType.LINK_DOWN, time=time, link=link)


def roaming_changed(link: str, before: Identity, after: Identity, time: datetime) -> Event | None:
    """A link has begun to roam, or is at home again; None if neither is known."""
    if after.roaming is None or after.roaming is bool(before.roaming):
        return None
    return Event(
        type=EventType.ROAMING_STARTED if after.roaming else EventType.ROAMING_ENDED,
        time=time,
        link=link,
        profile=after.profile,
        network=str(after.operator) if after.operator else None,
        country=after.country,
    )


def tracer_gap(link: str | None, begin: datetime, end: datetime, cause: str) -> Event:
    """Nothing was counted of a link, or of all, from `begin` to `end`."""
    return Event(type=EventType.TRACER_GAP, time=end, link=link, period_begin=begin, period_end=end, cause=cause)


def example(kind: EventType, time: datetime) -> Event:
    """An event of a type as it may happen."""
    begin = datetime(time.year, time.month, 1, tzinfo=UTC)
    end = datetime(time.year + time.month // 12, time.month % 12 + 1, 1, tzinfo=UTC)
    amount = 1_000_000_000
    level = 80 if kind.value.endswith(".warning") else 100
    use = {"used_bytes": amount * level // 100 + 4711, "limit_bytes": amount, "level_percent": level}
    # A pid that no process can have (PID_MAX_LIMIT, include/linux/threads.h): hooks are tried with it.
    where = {"cgroups": ("/example.slice/example-app.service",), "pids": (4_194_304,)}
    app = {"app": "example-app", "user": "nobody"} | where
    link = {"link": "wwan0", "profile": "8949000000000000001"}
    quota = {"quota": "example", "added": begin}
    fields: dict[str, Any] = {"period_begin": begin, "period_end": end}
    match kind:
        case EventType.QUOTA_WARNING | EventType.QUOTA_EXCEEDED:
            fields |= quota | {"action": "block" if level == 100 else "warn"} | use | app | link
        case EventType.QUOTA_RESET:
            fields |= quota | {"used_bytes": 0, "limit_bytes": amount} | app | link
        case EventType.PLAN_WARNING | EventType.PLAN_EXHAUSTED:
            fields |= {"plan": "link:wwan0"} | use | link
        case EventType.APP_FIRST_SEEN:
            fields = app | link
        case EventType.APP_RAPID_USE:
            minute = time.replace(second=0, microsecond=0)
            fields = {"period_begin": minute, "period_end": time, "used_bytes": 104_857_600} | app | link
        case EventType.LINK_UP | EventType.LINK_DOWN:
            fields = link
        case EventType.ROAMING_STARTED:
            fields = link | {"network": "232-01 A1", "country": "AT"}
        case EventType.ROAMING_ENDED:
            fields = link | {"network": "262-01 Telekom.de", "country": "DE"}
        case EventType.TRACER_GAP:
            fields = {"period_begin": begin, "period_end": time, "cause": "down", "link": "wwan0"}
    return Event(type=kind, time=time, **fields)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _shown(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else "?"
