"""What is attached for good, and how it is."""

from __future__ import annotations

import time
from typing import Final

from esimbpf.errors import EsimbpfError, NotPermitted
from esimbpf.exclusive import holder
from esimbpf.health import Health, LinkHealth, ProgramHealth, QuotaHealth
from esimbpf.kernel import abi, pins
from esimbpf.kernel.links import list_links
from esimbpf.kernel.netns import cookie
from esimbpf.kernel.programs import PROGRAMS
from esimbpf.kernel.quotas import NEVER, KernelQuotas, OpenServices
from esimbpf.kernel.reader import Reader
from esimbpf.model import NOTHING, Counters
from esimbpf.quota import Then
from esimbpf.saver import Service
from esimbpf.snapshot import FIRST_PROCESS_SLOT, LinkReading, ReservedSlot

__all__ = ["health"]


def health() -> Health:
    """How what is pinned is; `attached` is False if nothing is. Raises NotPermitted where pins may not be seen."""
    strangers = tuple(str(path) for path in pins.foreign())
    try:
        engine = pins.PinnedEngine()
    except FileNotFoundError:
        return Health(attached=False, strangers=strangers)
    except NotPermitted:
        raise
    except EsimbpfError as error:
        return Health(attached=False, strangers=(*strangers, error.message))
    with engine:
        about = engine.about
        lost = dict(about.lost)
        readings = Reader(engine, len(about.links), owns_slots=False).read().links if about.links else ()
        names = {found.link.ifindex: found.link.name for found in list_links()}
        first, last = FIRST_PROCESS_SLOT * abi.SLOT.size, (engine.last_slot + 1) * abi.SLOT.size
        keeper = holder(pins.place())
        by_number = _quotas(engine)
        saver = by_number.pop(abi.SAVER_QUOTA, None)
        states = [state for _, state, _, _ in abi.SLOT.iter_unpack(engine.state_memory[first:last])]
        return Health(
            attached=True,
            attach_id=about.attach_id,
            version=about.version,
            engine=engine.name,
            since_s=about.started_wall_ns / 1e9,
            uptime_s=(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - about.started_boottime_ns) / 1e9,
            programs=tuple(
                ProgramHealth(
                    program.name,
                    engine.program_fd(program.name) is not None and engine.is_attached(program),
                    lost.get(program.name, ""),
                )
                for program in PROGRAMS
            ),
            links=tuple(
                LinkHealth(
                    name=name,
                    ifindex=engine.watched_ifindex(number),
                    counted=names.get(engine.watched_ifindex(number)) == name,
                    total=_total(reading),
                    overflow=reading.reserved[ReservedSlot.OVERFLOW],
                    blocked_overflow=reading.blocked.get(ReservedSlot.OVERFLOW, NOTHING),
                )
                for number, (name, reading) in enumerate(zip(about.links, readings, strict=True))
            ),
            slots=len(states),
            slots_used=sum(state != abi.SlotState.FREE for state in states),
            slots_ended=sum(state == abi.SlotState.EXITED for state in states),
            elsewhere=about.netns_cookie != (cookie() or 0),
            daemon=keeper is not None,
            daemon_pid=keeper.pid if keeper else None,
            state_dir=about.state_dir,
            quotas=tuple(by_number.values()),
            saver=saver,
            services_open=tuple(Service(str(one.name).lower()) for one in OpenServices(engine.services_open)),
            strangers=strangers,
        )


def _quotas(engine: pins.PinnedEngine) -> dict[int, QuotaHealth]:
    """By number, the quotas that the kernel enforces, or would if they were not held."""
    with KernelQuotas(engine) as quotas:
        about_anybody = quotas.about_anybody()
        return {
            number: QuotaHealth(
                number,
                Then(rule.action.name.lower()),
                rule.bytes_per_s,
                None if rule.stop_at_bytes == NEVER else max(0, rule.stop_at_bytes - quotas.used_bytes(number)),
                number in about_anybody,
                elsewhere=not rule.links,
            )
            for number, rule in quotas.rules().items()
        }


def _total(reading: LinkReading) -> Counters:
    """What has crossed a link since it was attached: received as it came in, sent as the sum of all rows."""
    rows = [*reading.processes.values(), *(reading.reserved[slot] for slot in _ROWS)]
    arrived = reading.reserved[ReservedSlot.LINK]
    return Counters(
        arrived.rx_bytes,
        sum(row.tx_bytes for row in rows),
        arrived.rx_packets,
        sum(row.tx_packets for row in rows),
    )


_ROWS: Final = (ReservedSlot.KERNEL, ReservedSlot.FORWARDED, ReservedSlot.UNATTRIBUTED, ReservedSlot.OVERFLOW)
