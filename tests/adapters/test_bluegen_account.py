"""The customer's account: how the password travels, and what the day's quota is spent on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapters.cells import FLAT, Book, asked, cell, logins
from adapters.rig import Hands

from fpd.adapters.bluegen_errors import Refusal
from fpd.adapters.bluegen_password import encrypted
from fpd.adapters.device import Excluded, Health, Result, Stopped, Wiring
from fpd.errors import Malformed
from fpd.sim.bluegen import BlueGen
from fpd.sim.journal import Filter


def sent_passwords(service: BlueGen) -> list[str]:
    found = service.journal.find(Filter(path="/customer/login"))
    return [json.loads(bytes(entry.body))["password"] for entry in found]


@pytest.mark.parametrize("form", ["pem", "der"])
@pytest.mark.parametrize("padding", ["pkcs1v15", "oaep_sha1"])
async def test_the_password_is_encrypted_with_the_key_of_the_moment(
    service: BlueGen, wiring: Wiring, clock: Hands, form: str, padding: str
) -> None:
    service.switch({"plain_refused": True, "pubkey_form": form})
    device = cell(service, wiring, password_mode="encrypt_at_login", rsa_padding=padding)
    assert (await device.read()).dispatchable
    service.account.rotate_key()
    service.account.expire_tokens()
    clock.move(minutes=5)
    assert (await device.read()).dispatchable, "another key is no trouble"
    assert "demo" not in sent_passwords(service)
    assert asked(service, "/customer")[:2] == ["GET /customer/pubkey", "POST /customer/login"]


async def test_a_stored_ciphertext_is_void_with_another_key(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    wiring.ledger = Book()
    service.switch({"plain_refused": True})
    key = service.account.public_key()
    issued_on = service.account.issued_on
    assert issued_on is not None
    stored = {
        "password": encrypted("demo", key, "pkcs1v15"),
        "password_mode": "stored_ciphertext",
        "key_issued_on": service.timestamp(issued_on),
    }
    device = cell(service, wiring, **stored)
    assert (await device.read()).dispatchable
    service.account.rotate_key()
    service.account.expire_tokens()
    clock.move(minutes=5)
    for _ in range(2):
        with pytest.raises(Refusal, match="needs_password") as refused:
            await device.read()
        assert refused.value.health is Health.STOPPED
    assert logins(service) == 1, "a login that must fail is never tried"
    wiring.accounts.clear()
    service.switch(None)
    assert (await cell(service, wiring).read()).dispatchable, "once the password is there"


@pytest.mark.parametrize("key", ["", "bm8ga2V5", "-----BEGIN PUBLIC KEY-----\nx"])
def test_a_key_that_is_none_is_told(key: str) -> None:
    with pytest.raises(Malformed):
        encrypted("secret", key, "pkcs1v15")


async def test_requests_are_counted_over_restarts_and_processes(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    wiring.ledger = book = Book()
    await cell(service, wiring).read()
    wiring.accounts.clear()
    await cell(service, wiring).read()
    (tally,) = book.tallies.values()
    assert tally.requests == service.state()["requests_today"]
    book.away = True
    clock.move(minutes=5)
    assert (await cell(service, wiring).read()).dispatchable, "without the ledger it goes on"


async def test_a_refused_login_is_not_repeated_by_starting_again(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    wiring.ledger = Book()
    for _ in range(4):
        wiring.accounts.clear()
        with pytest.raises(Refusal, match="Bad Credentials"):
            await cell(service, wiring, password="wrong").read()
    assert logins(service) == 1
    clock.move(minutes=16)
    wiring.accounts.clear()
    assert (await cell(service, wiring).read()).dispatchable


async def test_an_operator_who_has_looked_need_not_wait(service: BlueGen, wiring: Wiring) -> None:
    wiring.ledger = Book()
    service.switch({"naughty_ip": True})
    device = cell(service, wiring)
    with pytest.raises(Refusal, match="Naughty IP"):
        await device.read()
    service.switch(None)
    (account,) = wiring.accounts.values()
    assert "Naughty IP" in account.stopped
    await account.unlock()
    assert (await device.read()).dispatchable


async def test_the_quota_is_learned_and_asked_for_once_an_hour_without_login(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    wiring.ledger = Book()
    service.switch({"quota_per_day": 12})
    device = cell(service, wiring, polling="fixed")
    refused: Refusal | None = None
    while refused is None:
        try:
            await device.read()
        except Refusal as error:
            refused = error
        clock.move(minutes=5)
    assert "quota_exhausted" in str(refused)
    before, in_before = len(asked(service)), logins(service)
    for _ in range(36):
        clock.move(minutes=5)
        with pytest.raises(Refusal):
            await device.read()
    assert set(asked(service)[before:]) == {"GET /customer/pubkey"}
    assert len(asked(service)) - before == 3, "one question an hour"
    assert logins(service) == in_before
    wiring.accounts.clear()
    with pytest.raises(Refusal, match="quota_exhausted"):
        await cell(service, wiring).read()
    service.switch({"quota_per_day": 0})
    clock.move(days=1)
    device = cell(service, wiring)
    assert (await device.read()).dispatchable
    (account,) = wiring.accounts.values()
    assert account.quota.granted == int(12 * 0.9)


async def test_commands_are_left_a_share_of_the_quota(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    service.switch({"quota_per_day": 100})
    device = cell(service, wiring, quota_per_day=100, polling="fixed")
    with pytest.raises(Excluded, match="kept for commands"):
        for _ in range(100):
            await device.read()
            clock.move(minutes=5)
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    assert service.state()["requests_today"] <= 80


@pytest.mark.parametrize(("skew_s", "alarm"), [(0, None), (60, "60 s off"), (-40, "40 s off")])
async def test_a_clock_that_differs_is_an_alarm(
    service: BlueGen, wiring: Wiring, skew_s: float, alarm: str | None
) -> None:
    service.switch({"date_skew_s": -skew_s})
    reading = await cell(service, wiring).read()
    assert (alarm or "") in (reading.alarm or "")
    assert (reading.alarm is None) == (alarm is None)


async def test_far_off_clocks_write_nothing(service: BlueGen, wiring: Wiring) -> None:
    service.switch({"date_skew_s": 400})
    device = cell(service, wiring)
    await device.read()
    with pytest.raises(Stopped, match="400 s off"):
        await device.apply(FLAT)
    assert [line for line in asked(service, "profile") if "GET" not in line] == []


async def test_a_write_may_be_answered_by_any_text(service: BlueGen, wiring: Wiring) -> None:
    service.switch({"ok_text": True})
    device = cell(service, wiring)
    await device.read()
    outcome: Any = await device.apply(FLAT)
    assert outcome.result is Result.CONFIRMED
