"""The state table of the link, said again from the outside."""

from datetime import UTC, datetime, timedelta

import pytest

from fpd.domain.link import Link, LinkEvent, after, next_heartbeat, offline_at, silence_allowed
from fpd.errors import Forbidden

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize("link", list(Link))
def test_a_valid_token_may_always_register(link: Link) -> None:
    assert after(link, LinkEvent.REGISTER) is Link.REGISTERING


@pytest.mark.parametrize("link", [Link.PROVISIONED, Link.UNREGISTERED, Link.FAILED])
@pytest.mark.parametrize(
    "event",
    [
        LinkEvent.HANDSHAKE,
        LinkEvent.ACKNOWLEDGE,
        LinkEvent.MESSAGE,
        LinkEvent.UNREGISTER,
        LinkEvent.PUT_REGISTER,
    ],
)
def test_an_unregistered_peer_may_say_nothing_else(link: Link, event: LinkEvent) -> None:
    with pytest.raises(Forbidden, match="register"):
        after(link, event)


@pytest.mark.parametrize("link", [Link.REGISTERING, Link.REGISTERED, Link.OFFLINE])
def test_messages_need_a_handshake(link: Link) -> None:
    with pytest.raises(Forbidden, match="shake hands first"):
        after(link, LinkEvent.MESSAGE)
    assert after(after(link, LinkEvent.HANDSHAKE), LinkEvent.MESSAGE) is Link.ONLINE


def test_our_own_late_events_change_nothing() -> None:
    assert after(Link.ONLINE, LinkEvent.REGISTER_ACCEPTED) is Link.ONLINE
    assert after(Link.ONLINE, LinkEvent.REGISTER_REFUSED) is Link.ONLINE
    assert after(Link.UNREGISTERED, LinkEvent.SILENCE) is Link.UNREGISTERED
    assert after(Link.REGISTERING, LinkEvent.NOT_HANDSHAKEN) is Link.REGISTERING


def test_a_whole_life() -> None:
    link = Link.PROVISIONED
    for event, expected in [
        (LinkEvent.REGISTER, Link.REGISTERING),
        (LinkEvent.REGISTER_ACCEPTED, Link.REGISTERED),
        (LinkEvent.HANDSHAKE, Link.ONLINE),
        (LinkEvent.MESSAGE, Link.ONLINE),
        (LinkEvent.SILENCE, Link.OFFLINE),
        (LinkEvent.HANDSHAKE, Link.ONLINE),
        (LinkEvent.PUT_REGISTER, Link.REGISTERED),
        (LinkEvent.ACKNOWLEDGE, Link.ONLINE),
        (LinkEvent.UNREGISTER, Link.UNREGISTERED),
    ]:
        link = after(link, event)
        assert link is expected


def test_a_promise_gets_grace_and_a_past_one_none() -> None:
    grace = timedelta(seconds=5)
    assert offline_at(NOON + timedelta(seconds=60), now=NOON, grace=grace) == NOON + timedelta(
        seconds=65
    )
    assert offline_at(NOON - timedelta(seconds=1), now=NOON, grace=grace) == NOON


def test_heartbeats_keep_well_inside_the_interval() -> None:
    assert next_heartbeat(60) == timedelta(seconds=48)
    assert silence_allowed(60) == timedelta(seconds=180)
