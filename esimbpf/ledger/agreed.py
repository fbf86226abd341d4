"""What the ledger says of the quotas that the kernel enforces: what was agreed, and what the daemon saw of it last."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from esimbpf.ledger import quotas
from esimbpf.limits import Agreed
from esimbpf.quota import Quota

__all__ = ["agreed"]


def agreed(db: sqlite3.Connection, attach_id: str, configured: Sequence[Quota], now: datetime, zone: tzinfo) -> Agreed:
    """What was agreed by now, and by which numbers an attachment knows it. Raises UsageError as `quotas.kept` does."""
    standings = quotas.standings(db, configured, now, zone)
    numbers = db.execute("SELECT number, name, added_s FROM quota_number WHERE attach_id = ?", (attach_id,))
    names = {number: (name, datetime.fromtimestamp(added_s, UTC)) for number, name, added_s in numbers}
    looked = db.execute("SELECT folded_s FROM attachment WHERE attach_id = ?", (attach_id,)).fetchone()
    then = datetime.fromtimestamp(looked[0], UTC) if looked else now
    saver = quotas.saver(db)
    return Agreed(
        names,
        tuple(standings),
        {one.kept.quota.name: quotas.period_of(db, one.kept, then, zone) for one in standings},
        saver.standing(now, zone) if saver else None,
    )
