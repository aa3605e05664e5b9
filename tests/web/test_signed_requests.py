"""Requests that are signed in place of bringing a bearer token: who gets in, and who does not."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp.test_utils import make_mocked_request
from support.management import Management, management
from support.signing import Request
from web.lookout import lookout
from yarl import URL

from fpd.config import Http
from fpd.errors import FpdError, Unauthenticated
from fpd.store import accounts
from fpd.web import manage
from fpd.web.limits import Limits

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)
PROVIDERS = f"{manage.PREFIX}/capacity-providers"
JSON = "application/json; charset=UTF-8"
INSTRUCT = "/solaruser/api/v1/sec/instr/add/OSCP_v20"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Management]:
    http = Http(public_url="https://fpd.example.org", max_body_mb=0.5)
    async with management(database_url, lambda: NOON, http=http) as api:
        yield api


async def token(api: Management, user_id: int = 1) -> accounts.NewToken:
    async with api.context.db.transaction() as conn:
        return await accounts.create_token(
            conn, user_id=user_id, name=None, vault=api.context.vault, now=NOON
        )


async def asking(api: Management, user_id: int = 1, **changes: Any) -> Request:
    """Return a request of a new token; GET the providers but for what `changes` say."""
    made = await token(api, user_id)
    values = {"host": api.url.removeprefix("http://"), "path": PROVIDERS, "at": NOON, **changes}
    return Request(token_id=made.id, secret=made.secret, **values)


def creating(body: Any, asks: Request) -> Request:
    raw = json.dumps(body).encode()
    return replace(asks, method="POST", body=raw, headers={"Content-Type": JSON}).with_digest()


async def send(
    api: Management, asks: Request, headers: Mapping[str, str] | None = None, **changes: Any
) -> tuple[int, Any]:
    """Send a request as signed but for what `changes` say; `headers` are added or replaced."""
    sent = replace(asks, **changes)
    named = {**asks.sent_headers(), **(headers or {})}
    query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sent.query
    )
    url = URL(f"{api.url}{sent.path}" + (f"?{query}" if query else ""), encoded=True)
    async with api.session.request(
        sent.method, url, data=sent.body or None, headers=named, skip_auto_headers=["Content-Type"]
    ) as answer:
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer, SNWS2"
        return answer.status, await answer.json()


async def is_refused(
    api: Management, asks: Request, headers: Mapping[str, str] | None = None, **changes: Any
) -> bool:
    """Tell whether it is a 401, which says the same whatever is wrong."""
    status, said = await send(api, asks, headers, **changes)
    assert status != 401 or said == {
        "success": False,
        "code": "UNAUTHORIZED",
        "message": "Authorization: the signature is not accepted",
        "errors": [],
    }
    return status == 401


async def test_a_user_works_with_signed_requests_alone(api: Management) -> None:
    asks = await asking(api)
    status, said = await send(api, creating({"name": "Lines Co. é"}, asks))
    assert (status, said["data"]["userId"], said["data"]["name"]) == (201, 1, "Lines Co. é")
    item = f"{PROVIDERS}/{said['data']['configId']}"
    odd = [("max", "10"), ("offset", "0"), ("a[0]", "x y+z"), ("é", "ü/?&="), ("a!", "(*)'~")]
    for path in (PROVIDERS, PROVIDERS.replace("-", "%2D")):
        status, said = await send(api, replace(asks, path=path, query=odd))
        assert (status, said["data"]["totalResults"]) == (200, 1), "as it is written in the address"
    change = replace(creating({"name": "Lines Ltd."}, asks), method="PUT", path=item)
    assert (await send(api, change))[1]["data"]["name"] == "Lines Ltd."
    other = await asking(api, user_id=2)
    assert (await send(api, other))[1]["data"] == []
    assert (await send(api, replace(other, path=item)))[0] == 404
    assert (await send(api, replace(asks, method="DELETE", path=item)))[0] == 200
    ((used,),) = await api.rows(
        "select last_used_at from access_token where id = %s", asks.token_id
    )
    assert used == NOON


async def test_a_bearer_token_still_does(api: Management) -> None:
    assert (await api.nobody((await token(api)).bearer)("GET", "settings")).status == 200


async def test_whatever_is_altered_on_the_way_is_refused(api: Management) -> None:
    asks = replace(await asking(api), query=[("max", "10")])
    assert (await send(api, asks))[0] == 200
    later = f"{NOON + timedelta(seconds=1):%a, %d %b %Y %H:%M:%S} GMT"
    assert await is_refused(api, asks, path=f"{manage.PREFIX}/capacity-groups")
    assert await is_refused(api, asks, path=PROVIDERS.replace("-", "%2D"))
    assert await is_refused(api, asks, query=[("max", "11")])
    assert await is_refused(api, asks, query=[])
    assert await is_refused(api, asks, query=[("max", "10"), ("offset", "0")])
    assert await is_refused(api, asks, method="POST")
    assert await is_refused(api, asks, body=b"{}")
    assert await is_refused(api, asks, {"X-SN-Date": later})
    assert await is_refused(api, asks, {"Host": "elsewhere.example.org"})
    assert await is_refused(api, asks, {"X-SN-Nonce": "1"}), "not signed"
    assert await is_refused(api, asks, {"Content-Type": JSON}), "not signed"
    assert await is_refused(api, asks, {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}), "not signed"
    create = creating({"name": "Lines Co."}, asks)
    assert await is_refused(api, create, body=create.body.replace(b"Lines", b"Other"))
    assert await is_refused(api, create, {"Content-Type": "application/json"})
    assert await is_refused(api, create, method="GET")
    assert (await send(api, create))[0] == 201


async def test_whose_token_it_is_counts(api: Management) -> None:
    mine, other = await asking(api), await asking(api, user_id=2)
    assert await is_refused(api, replace(mine, token_id=other.token_id))
    assert await is_refused(api, replace(mine, token_id="x" * 20))
    assert await is_refused(api, replace(mine, secret=""))
    assert (await send(api, mine))[0] == 200
    async with api.context.db.transaction() as conn:
        await accounts.revoke_token(conn, id=mine.token_id, now=NOON)
    assert await is_refused(api, mine)
    assert (await send(api, other))[0] == 200


async def test_dates_and_the_days_of_keys(api: Management) -> None:
    asks = await asking(api)
    for minutes, refused in ((-15, False), (15, False), (-16, True), (16, True)):
        at = NOON + timedelta(minutes=minutes)
        assert await is_refused(api, replace(asks, at=at)) is refused, minutes
    for days, refused in ((-6, False), (-7, True), (1, True)):
        key_day = NOON + timedelta(days=days)
        assert await is_refused(api, replace(asks, key_day=key_day)) is refused, days
    by_date = replace(asks, date_header="Date")
    assert not await is_refused(api, by_date)
    assert await is_refused(api, by_date, {"X-SN-Date": "Thu, 12 Mar 2026 12:00:00 GMT"})


async def test_digests_are_those_of_the_body(api: Management) -> None:
    asks = creating({"name": "Lines Co."}, await asking(api))
    right = base64.b64encode(hashlib.md5(asks.body).digest()).decode()
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with_md5 = replace(asks, headers={"Content-Type": JSON, "Content-MD5": right})
    assert (await send(api, with_md5))[0] == 201
    assert await is_refused(
        api, replace(asks, headers={"Content-Type": JSON, "Content-MD5": wrong})
    )
    assert await is_refused(
        api, replace(asks, headers={"Content-Type": JSON, "Digest": "md5=" + wrong})
    )
    unsigned = replace(asks, headers={"Content-Type": JSON}, hashed=b"")
    assert await is_refused(api, unsigned), "a body counts, with or without a digest of it"


async def test_a_form_counts_as_parameters_of_an_empty_body(api: Management) -> None:
    fields = [("b", "x y+é"), ("a[0].name", "1"), ("max", "2")]
    asks = replace(
        await asking(api),
        method="POST",
        headers={"Content-Type": f"{FORM}; charset=UTF-8"},
        query=[("max", "1"), *fields],
        hashed=b"",
    )
    sent = {"query": [("max", "1")], "body": urlencode(fields).encode()}
    assert (await send(api, asks, **sent))[0] == 415, "this door takes no forms, but knows us"
    assert await is_refused(api, asks, **{**sent, "body": sent["body"] + b"1"})
    assert await is_refused(api, replace(asks, hashed=None, body=sent["body"]), **sent)
    assert await is_refused(api, asks, body=b"x&" * 20_000)


async def test_an_instruction_may_be_signed_in_every_way_of_writing_it(api: Management) -> None:
    asks = replace(await asking(api), method="POST", path=INSTRUCT)
    instruction = {"action": "AdjustGroupCapacityForecast", "coId": "7"}
    pairs = [
        (f"parameters[{index}].{part}", text)
        for index, pair in enumerate(instruction.items())
        for part, text in zip(("name", "value"), pair, strict=True)
    ]
    form = replace(asks, headers={"Content-Type": FORM}, query=pairs, hashed=b"")
    by_json = replace(creating({"params": instruction}, asks), path=INSTRUCT)
    for answer in (
        await send(api, by_json),
        await send(api, replace(asks, query=pairs)),
        await send(api, form, query=(), body=urlencode(pairs).encode()),
    ):
        status, said = answer
        assert (status, said["data"]["state"]) == (200, "Declined")
        assert said["data"]["resultParameters"]["error"].startswith("cgIdentifier: missing")


async def test_the_host_is_ours_by_any_of_its_names(api: Management) -> None:
    asks = await asking(api)
    for host in ("fpd.example.org", "fpd.example.org:443"):
        assert not await is_refused(api, replace(asks, host=host)), host
    for host in ("example.org", "fpd.example.org:8484", ""):
        assert await is_refused(api, replace(asks, host=host)), host
    assert not await is_refused(api, replace(asks, host="a"), {"Host": "a:80"})


async def test_a_large_body_is_judged_too_and_a_too_large_one_is_not_kept(api: Management) -> None:
    asks = creating({"name": "Lines Co.", "ignored": "x" * 100_000}, await asking(api))
    assert len(asks.body) > 65_536
    assert await is_refused(api, asks, body=asks.body.replace(b"Lines", b"Other"))
    assert (await send(api, asks))[0] == 201
    huge = creating({"name": "x" * 600_000}, asks)
    assert (await send(api, huge))[0] == 413


async def test_nonsense_in_place_of_a_signature(api: Management) -> None:
    asks = await asking(api)
    genuine = asks.sent_headers()["Authorization"]
    for credential in (
        "SNWS2", "SNWS2 ", "SNWS2 Credential=abc", genuine[:-1], genuine + ",X=1", "SNWS2 ,,,",
        genuine.replace("x-sn-date", "x-sn-date;host"), genuine.replace(";x-sn-date", ""),
        genuine.replace("host;", ""), "SNWS2 \u00ff",
    ):  # fmt: skip
        assert await is_refused(api, asks, {"Authorization": credential}), credential
    assert not await is_refused(api, asks, {"Authorization": genuine.replace("SNWS2", "snws2", 1)})


async def test_a_guesser_is_slowed_down_by_address_and_nobody_else(api: Management) -> None:
    asks = await asking(api)
    guess = replace(asks, secret="guess")
    statuses = [(await send(api, guess))[0] for _ in range(31)]
    assert statuses == [401] * 30 + [429]
    assert (await send(api, asks))[0] == 200, "a valid credential is never kept out"


async def test_guesses_at_one_token_count_from_wherever_they_come() -> None:
    limits = Limits(Http(failed_auth_per_min=2), monotonic=lambda: 0.0)

    async def guess(remote: str, claimed: str) -> str:
        async def identity() -> str:
            raise Unauthenticated("no", claimed=claimed)

        request = make_mocked_request("GET", "/").clone(remote=remote)
        with pytest.raises(FpdError) as refusal:
            await limits.authenticated(request, identity())
        return refusal.typename

    said = [await guess(f"192.0.2.{number}", "a") for number in range(3)]
    assert said == ["Unauthenticated", "Unauthenticated", "TooMany"]
    assert await guess("192.0.2.9", "b") == "Unauthenticated"


@pytest.mark.parametrize("path", ["/api/v1/messages", "/api/v1/oscp/peers", "/api/v1/status", "/"])
async def test_fpd_s_own_doors_take_signatures_too(database_url: str, path: str) -> None:
    async with lookout(database_url) as look:
        async with look.context.db.transaction() as conn:
            made = await accounts.create_token(
                conn, user_id=1, name=None, vault=look.context.vault, now=NOON
            )
        host = f"{look.client.host}:{look.client.port}"
        asks = Request(token_id=made.id, secret=made.secret, host=host, path=path, at=NOON)
        async with look.client.get(path, headers=asks.sent_headers()) as answer:
            assert answer.status == 200, await answer.text()
        forged = replace(asks, secret="guess").sent_headers()
        async with look.client.get(path, headers=forged) as answer:
            assert answer.status == 401
            assert "the signature is not accepted" in await answer.text()
