"""Messages as a capacity provider would write them now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any


def forecast(capacity: Any = 3.0, *, in_hours: float = 0, **changes: Any) -> dict[str, Any]:
    """One hour of import limit in kW, from now or `in_hours` on; a newer one covers an older."""
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=in_hours)
    block = {
        "capacity": capacity,
        "phase": "ALL",
        "unit": "KW",
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(hours=1)).isoformat(),
    }
    return {
        "group_id": "my-group",
        "type": "CONSUMPTION",
        "forecasted_blocks": [block],
        **changes,
    }
