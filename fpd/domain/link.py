"""The state of the link with one peer, and what each event does to it. All of it is here.

    | event             | prov.  | regg.  | regd.  | online | offl.  | broken | unreg. | failed |
    |-------------------|--------|--------|--------|--------|--------|--------|--------|--------|
    | register          | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  |
    | we_register       | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  | regg.  |
    | register_reply    | 403    | regd.  | regd.  | regd.  | regd.  | regd.  | 403    | regd.  |
    | register_accepted | –      | regd.  | –      | –      | –      | –      | –      | regd.  |
    | register_refused  | –      | failed | –      | –      | –      | –      | –      | –      |
    | unanswered        | –      | failed | –      | –      | –      | –      | –      | –      |
    | put_register      | 403    | regd.  | regd.  | regd.  | regd.  | regd.  | 403    | 403    |
    | unregister        | 403    | unreg. | unreg. | unreg. | unreg. | unreg. | 403    | 403    |
    | we_unregister     | –      | unreg. | unreg. | unreg. | unreg. | unreg. | –      | –      |
    | handshake         | 403    | online | online | online | online | online | 403    | 403    |
    | acknowledge       | 403    | online | online | online | online | online | 403    | 403    |
    | message           | 403    | 403    | 403    | –      | 403    | –      | 403    | 403    |
    | silence           | –      | –      | –      | offl.  | –      | offl.  | –      | –      |
    | sign_of_life      | –      | –      | –      | –      | online | –      | –      | –      |
    | not_handshaken    | –      | –      | –      | regd.  | regd.  | –      | –      | –      |
    | refused_again     | –      | –      | broken | broken | –      | –      | –      | –      |
    | credential_taken  | –      | –      | –      | –      | –      | online | –      | –      |

(provisioned, registering, registered, online, offline, broken, unregistered, failed; a message is
a heartbeat, a forecast or anything else that needs a handshake.)

A registration is started by the peer (register, which our own Register answers: it is accepted
or refused) or by our operator (we_register). Ours is outstanding until the peer answers it with a
Register of its own: that one is a register_reply and is not answered by another. Whether one is
outstanding, and which Register is its answer, `fpd.flows.initiative` tells.

A peer that takes our Register and never sends its own leaves it unanswered. The registration has
failed then, but its Register, should it come after all, still completes it.

A link is broken when the peer refuses our credential and the remedy (`fpd.flows.trouble`) did not
help. Nothing but messages of the link leaves for it; what is owed waits. Interpretation: what a
peer says over a broken link counts as over an open one. It is our credential that is refused, not
the peer's, and its limits must go on being obeyed; heartbeats count, and silence ends in offline.
It is well again after a handshake or a registration from either side, or when the peer takes the
credential of a message with which we ask it from time to time.

A sign of life is a message of a peer whose dialect lets it end offline mode by merely speaking.

"–" leaves the state alone: such events are ours and may arrive late. A refusal is a 403
(OSCP 2.0 §4.1.3 as two implementers read it: messages before the handshake).

Interpretation: a handshake counts for inbound messages from our 204 on, not from the 204 to
our acknowledge: a peer that got the acknowledge may speak before we have noted its answer.
Interpretation: decision P5, a restart keeps the state; P8, a group may lack an optimizer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from fpd.errors import Forbidden


class Link(StrEnum):
    PROVISIONED = "provisioned"
    REGISTERING = "registering"
    REGISTERED = "registered"
    ONLINE = "online"
    OFFLINE = "offline"
    BROKEN = "broken"
    UNREGISTERED = "unregistered"
    FAILED = "failed"


class LinkEvent(StrEnum):
    REGISTER = "register"
    WE_REGISTER = "we_register"
    REGISTER_REPLY = "register_reply"
    REGISTER_ACCEPTED = "register_accepted"
    REGISTER_REFUSED = "register_refused"
    UNANSWERED = "unanswered"
    PUT_REGISTER = "put_register"
    UNREGISTER = "unregister"
    WE_UNREGISTER = "we_unregister"
    HANDSHAKE = "handshake"
    ACKNOWLEDGE = "acknowledge"
    MESSAGE = "message"
    SILENCE = "silence"
    SIGN_OF_LIFE = "sign_of_life"
    NOT_HANDSHAKEN = "not_handshaken"
    REFUSED_AGAIN = "refused_again"
    CREDENTIAL_TAKEN = "credential_taken"


_KNOWN = frozenset({Link.REGISTERING, Link.REGISTERED, Link.ONLINE, Link.OFFLINE, Link.BROKEN})

# event → (states in which it applies, state after it; None: stays, may it be ignored elsewhere)
_TABLE: dict[LinkEvent, tuple[frozenset[Link], Link | None, bool]] = {
    LinkEvent.REGISTER: (frozenset(Link), Link.REGISTERING, False),
    LinkEvent.WE_REGISTER: (frozenset(Link), Link.REGISTERING, False),
    LinkEvent.REGISTER_REPLY: (_KNOWN | {Link.FAILED}, Link.REGISTERED, False),
    LinkEvent.REGISTER_ACCEPTED: (
        frozenset({Link.REGISTERING, Link.FAILED}),
        Link.REGISTERED,
        True,
    ),
    LinkEvent.REGISTER_REFUSED: (frozenset({Link.REGISTERING}), Link.FAILED, True),
    LinkEvent.UNANSWERED: (frozenset({Link.REGISTERING}), Link.FAILED, True),
    LinkEvent.PUT_REGISTER: (_KNOWN, Link.REGISTERED, False),
    LinkEvent.UNREGISTER: (_KNOWN, Link.UNREGISTERED, False),
    LinkEvent.WE_UNREGISTER: (_KNOWN, Link.UNREGISTERED, True),
    LinkEvent.HANDSHAKE: (_KNOWN, Link.ONLINE, False),
    LinkEvent.ACKNOWLEDGE: (_KNOWN, Link.ONLINE, False),
    LinkEvent.MESSAGE: (frozenset({Link.ONLINE, Link.BROKEN}), None, False),
    LinkEvent.SILENCE: (frozenset({Link.ONLINE, Link.BROKEN}), Link.OFFLINE, True),
    LinkEvent.SIGN_OF_LIFE: (frozenset({Link.OFFLINE}), Link.ONLINE, True),
    LinkEvent.NOT_HANDSHAKEN: (frozenset({Link.ONLINE, Link.OFFLINE}), Link.REGISTERED, True),
    LinkEvent.REFUSED_AGAIN: (frozenset({Link.REGISTERED, Link.ONLINE}), Link.BROKEN, True),
    LinkEvent.CREDENTIAL_TAKEN: (frozenset({Link.BROKEN}), Link.ONLINE, True),
}

_REFUSALS = {
    Link.PROVISIONED: "register first",
    Link.REGISTERING: "shake hands first",
    Link.REGISTERED: "shake hands first",
    Link.OFFLINE: "you were offline: shake hands first",
    Link.UNREGISTERED: "the registration has ended: register first",
    Link.FAILED: "the registration failed: register again",
}


def after(link: Link, event: LinkEvent) -> Link:
    """Return the state that follows `event`. Raises Forbidden when it is not allowed now."""
    states, following, ignorable = _TABLE[event]
    if link in states:
        return link if following is None else following
    if ignorable:
        return link
    raise Forbidden(_REFUSALS[link])


def offline_at(promised_at: datetime, *, now: datetime, grace: timedelta) -> datetime:
    """Return when a peer that promised `promised_at` counts as offline (decision P6).

    >>> from datetime import UTC
    >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> offline_at(noon + timedelta(seconds=60), now=noon, grace=timedelta(seconds=5)).second
    5
    """
    return promised_at + grace if promised_at > now else now


def silence_allowed(interval_s: float) -> timedelta:
    """Return how long a peer that was asked for a heartbeat every `interval_s` may be silent."""
    return timedelta(seconds=3 * interval_s)


def next_heartbeat(interval_s: float) -> timedelta:
    """Return the wait between two heartbeats of ours: well inside the peer's interval."""
    return timedelta(seconds=0.8 * interval_s)
