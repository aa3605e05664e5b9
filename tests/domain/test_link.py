"""The state table of the link, said again from the outside."""

from datetime import UTC, datetime, timedelta

import pytest

from fpd.domain import link as link_module
from fpd.domain.link import Link, LinkEvent, after, next_heartbeat, offline_at, silence_allowed
from fpd.errors import Forbidden

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


_SHORT = {
    "prov.": Link.PROVISIONED,
    "regg.": Link.REGISTERING,
    "regd.": Link.REGISTERED,
    "offl.": Link.OFFLINE,
    "unreg.": Link.UNREGISTERED,
}


def _table() -> list[tuple[LinkEvent, Link, str]]:
    """Return the cells of the table that people read: (event, state, what it says)."""
    lines = [line.strip() for line in (link_module.__doc__ or "").splitlines()]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    states = [_SHORT.get(name) or Link(name) for name in rows[0][1:]]
    return [
        (LinkEvent(row[0]), state, cell)
        for row in rows[1:]
        for state, cell in zip(states, row[1:], strict=True)
    ]


def test_the_table_that_people_read_is_the_one_that_counts() -> None:
    cells = _table()
    assert len(cells) == len(LinkEvent) * len(Link)
    for event, link, cell in cells:
        if cell == "403":
            with pytest.raises(Forbidden):
                after(link, event)
        else:
            expected = link if cell == "–" else _SHORT.get(cell) or Link(cell)
            assert after(link, event) is expected, (event, link)


@pytest.mark.parametrize("link", list(Link))
@pytest.mark.parametrize("event", [LinkEvent.REGISTER, LinkEvent.WE_REGISTER])
def test_either_side_may_always_register(link: Link, event: LinkEvent) -> None:
    assert after(link, event) is Link.REGISTERING


def test_a_registration_of_ours_is_complete_with_the_peers_answer() -> None:
    link = after(Link.PROVISIONED, LinkEvent.WE_REGISTER)
    assert after(link, LinkEvent.REGISTER_REFUSED) is Link.FAILED
    link = after(link, LinkEvent.REGISTER_REPLY)
    assert link is Link.REGISTERED
    assert after(link, LinkEvent.REGISTER_ACCEPTED) is Link.REGISTERED, "told late, changes nothing"
    assert after(after(link, LinkEvent.ACKNOWLEDGE), LinkEvent.WE_UNREGISTER) is Link.UNREGISTERED


def test_nobody_is_left_twice() -> None:
    assert after(Link.UNREGISTERED, LinkEvent.WE_UNREGISTER) is Link.UNREGISTERED
    assert after(Link.PROVISIONED, LinkEvent.WE_UNREGISTER) is Link.PROVISIONED


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


def test_a_broken_link_still_listens_and_is_mended_by_what_shows_that_all_is_well() -> None:
    broken = after(Link.ONLINE, LinkEvent.REFUSED_AGAIN)
    assert broken is Link.BROKEN
    assert after(broken, LinkEvent.MESSAGE) is Link.BROKEN, "limits go on being obeyed"
    assert after(broken, LinkEvent.SILENCE) is Link.OFFLINE
    for event in (LinkEvent.HANDSHAKE, LinkEvent.ACKNOWLEDGE, LinkEvent.CREDENTIAL_TAKEN):
        assert after(broken, event) is Link.ONLINE
    assert after(broken, LinkEvent.REGISTER) is Link.REGISTERING
    assert after(Link.OFFLINE, LinkEvent.REFUSED_AGAIN) is Link.OFFLINE


def test_an_answer_to_our_register_that_comes_late_completes_the_registration() -> None:
    link = after(after(Link.PROVISIONED, LinkEvent.WE_REGISTER), LinkEvent.UNANSWERED)
    assert link is Link.FAILED
    assert after(link, LinkEvent.REGISTER_REPLY) is Link.REGISTERED


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
