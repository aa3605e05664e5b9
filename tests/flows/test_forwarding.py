"""Forwards that are owed in one go."""

from datetime import UTC, datetime

from fpd.flows.forwarding import told_apart
from fpd.store.outbox import Owed

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def owed(peer_id: int, request_id: str, sender_id: int) -> Owed:
    return Owed(
        peer_id=peer_id,
        lane="group:1",
        operation="update_group_capacity_forecast",
        body=b"{}",
        request_id=request_id,
        due_at=NOON,
        sender_id=sender_id,
        sender_request_id=request_id,
    )


def test_two_senders_with_one_id_are_both_heard() -> None:
    first, second, elsewhere = owed(1, "7", 10), owed(1, "7", 11), owed(2, "7", 11)
    apart = told_apart([first, second, elsewhere])
    assert (apart[0], apart[2]) == (first, elsewhere)
    assert apart[1].request_id != "7"
    assert (apart[1].sender_id, apart[1].sender_request_id) == (11, "7")
