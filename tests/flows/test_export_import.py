"""All that a user has as one file: out, in again, and what is wrong with it told at once."""

from __future__ import annotations

import asyncio
import itertools
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.database import Databases
from support.management import Management, User, asset_body, group_body, management

from fpd.domain import entities
from fpd.errors import FpdError
from fpd.flows.manage import archive, changes, creating
from fpd.flows.manage.carry import Carried, Deed, carry
from fpd.flows.manage.groups import ASSET, GROUP, GROUP_SETTINGS, USER_SETTINGS
from fpd.flows.manage.peers import OPTIMIZER, PROVIDER
from fpd.flows.manage.refusals import Invalid
from fpd.store import accounts
from fpd.store.service_props import join_secrets
from fpd.store.vault import Vault


@pytest.fixture
async def api(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    async with management(database_url, clock) as api:
        yield api


async def export(api: Management, *, user_id: int = 1, with_secrets: bool = False) -> str:
    return await archive.export(api.context, user_id=user_id, with_secrets=with_secrets)


async def bring(api: Management, text: str, **how: Any) -> Carried:
    return await carry(api.context, text, **{"user_id": 1, **how})


def counts(carried: Carried) -> dict[str, int]:
    return {deed.value: carried.count(deed) for deed in Deed if carried.count(deed)}


async def make_site(user: User) -> None:
    """Two providers of one name, an optimizer with secrets, two groups, assets and settings."""
    for url in ("https://b.example.org/cp", "https://a.example.org/cp"):
        await user("POST", "capacity-providers", {"name": 'Lines "&" Co.', "baseUrl": url})
    optimizer = {
        "name": "Optimizer Co.",
        "enabled": True,
        "registrationStatus": "Registered",
        "serviceProps": {
            "http-headers": {"X-Api-Key": "key-1", "X-Site": "7"},
            "oauth-client-id": "client-1",
            "oauth-client-secret": "secret-1",
            "mine": {"deep": [1, None, {"deeper": "\n\x7f\u2028"}]},
        },
    }
    await user("POST", "capacity-optimizers", optimizer)
    control = {"staticImportLimit": 11000, "meter": {"nodeId": 1, "sourceId": "m", "property": "w"}}
    await user("POST", "capacity-groups", group_body(2, capacityOptimizerId=3, control=control))
    await user("POST", "capacity-groups", group_body(1, identifier="another\nline"))
    await user("PUT", "settings", {"nodeId": 2, "sourceIdTemplate": "/oscp/{role:x}"})
    await user("PUT", "capacity-groups/1/settings", {"publishToSolarIn": False})
    energy = {"propertyNames": ["wattHours"], "unit": "Wh", "multiplier": 0.001}
    for identifier in ("b", "a"):
        await user("POST", "assets", asset_body(1, identifier=identifier, energy=energy))
    answer = await user("POST", "assets", asset_body(2, control={"device": "battery-1"}))
    assert answer.status == 201


@asynccontextmanager
async def elsewhere(
    databases: Databases, template_url: str, clock: Callable[[], datetime]
) -> AsyncIterator[Management]:
    """Another installation, with an empty database and a key of its own."""
    with databases.new(template_url) as url:
        async with management(url, clock) as api:
            yield api


async def test_a_file_makes_the_same_site_elsewhere(
    api: Management, databases: Databases, template_url: str, clock: Callable[[], datetime]
) -> None:
    await make_site(await api.user())
    text = await export(api)
    assert "key-1" not in text and "secret-1" not in text and "Registered" not in text
    assert "# " in text and '"oauth-client-secret", "X-Api-Key"' in text, "it says what is missing"
    async with elsewhere(databases, template_url, clock) as other:
        planned = await bring(other, text, dry=True)
        assert await export(other) != text, "a dry run changes nothing"
        done = await bring(other, text)
        assert counts(planned) == counts(done) == {"create": 10}
        assert await export(other) == text
        assert set(done.tokens) == {
            'capacityProvider "Lines \\"&\\" Co."',
            'capacityProvider "Lines \\"&\\" Co." 2',
            'capacityOptimizer "Optimizer Co."',
        }
        user = await other.user()
        groups = {g["identifier"]: g for g in (await user("GET", "capacity-groups")).data}
        named = groups["my-group"]["capacityProviderId"]
        (provider,) = [
            p for p in (await user("GET", "capacity-providers")).data if p["configId"] == named
        ]
        assert provider["baseUrl"] == "https://a.example.org/cp", (
            "names that are equal are told apart"
        )
        ((link, props, sealed),) = await other.rows(
            "select link, service_props, secrets_sealed from peer where role = 'CapacityOptimizer'"
        )
        assert (link, sealed) == ("provisioned", None)
        sent = join_secrets(props, sealed, other.context.vault)
        assert sent["http-headers"] == {"X-Site": "7"}, "a mask is never sent"


async def test_an_import_is_idempotent_and_keeps_what_it_does_not_know(api: Management) -> None:
    user = await api.user()
    await make_site(user)
    before = await api.rows("select to_jsonb(p) from peer p order by id")
    text = await export(api)
    assert counts(await bring(api, text)) == {"unchanged": 10}
    assert counts(await bring(api, text, prune=True)) == {"unchanged": 10}
    changed = text.replace('name = "Optimizer Co."\nenabled = true', 'name = "Optimizer Co."')
    (step,) = [s for s in (await bring(api, changed)).steps if s.deed is not Deed.UNCHANGED]
    assert (step.deed, step.fields) == (Deed.UPDATE, ("enabled",))
    assert counts(await bring(api, text)) == {"update": 1, "unchanged": 9}
    after = await api.rows("select to_jsonb(p) from peer p order by id")
    for (old,), (new,) in zip(before, after, strict=True):
        assert {k: v for k, v in new.items() if k not in ("modified_at", "secrets_sealed")} == {
            k: v for k, v in old.items() if k not in ("modified_at", "secrets_sealed")
        }
    ((props, sealed),) = await api.rows(
        "select service_props, secrets_sealed from peer where id = 3"
    )
    full = join_secrets(props, sealed, api.context.vault)
    assert (
        full["oauth-client-secret"] == "secret-1" and full["http-headers"]["X-Api-Key"] == "key-1"
    )


async def test_secrets_are_sealed_and_open_with_their_own_key_alone(
    api: Management, databases: Databases, template_url: str, clock: Callable[[], datetime]
) -> None:
    await make_site(await api.user())
    text = await export(api, with_secrets=True)
    assert "key-1" not in text and "secret-1" not in text
    assert counts(await bring(api, text)) == {"unchanged": 10}
    await bring(api, text.split("[[asset]]")[0].replace("battery-1", ""), user_id=2)
    ((props, sealed),) = await api.rows(
        "select service_props, secrets_sealed from peer where user_id = 2 and link = 'provisioned'"
        " and name = 'Optimizer Co.'"
    )
    full = join_secrets(props, sealed, api.context.vault)
    assert (
        full["oauth-client-secret"] == "secret-1" and full["http-headers"]["X-Api-Key"] == "key-1"
    )
    theirs = await export(api, user_id=2, with_secrets=True)
    assert theirs.rstrip() == text.split("[[asset]]")[0].rstrip(), "byte for byte, sealed too"
    async with elsewhere(databases, template_url, clock) as other:
        with pytest.raises(Invalid) as refused:
            await bring(other, text)
        ((place, message),) = [(f.location, f.message) for f in refused.value.faults]
        assert place.endswith('capacityOptimizer "Optimizer Co.", secrets')
        assert message == "do not open with this key file"
    for broken in (b"no json", b"[1]"):
        seal = api.context.vault.seal(broken).decode()
        wrong = f'format = 1\n[[capacityProvider]]\nname = "x"\nsecrets = "{seal}"\n'
        with pytest.raises(Invalid):
            await bring(api, wrong)


FAULTY = """\
format = 1
colour = "red"

[settings]
publishToSolarIn = 1

[[capacityProvider]]
name = "A"
baseUrl = "https://a.example.org"

[[capacityProvider]]
name = "B"
baseUrl = "https://A.example.org/"
registrationStatus = "Registered"

[[capacityGroup]]
identifier = "g"
name = "G"
capacityProvider = "C"
capacityProviderMeasurementPeriod = "Fortnight"
[capacityGroup.control]
marginPercent = 90
[capacityGroup.control.meter]
nodeId = 1
sourceld = "m"

[[capacityGroup]]
identifier = "g"
name = 2026-01-01

[[asset]]
capacityGroup = ["g", 1]
control = {device = "battery-9"}
"""


async def test_every_fault_is_told_at_once_with_its_line(api: Management) -> None:
    with pytest.raises(Invalid) as refused:
        await bring(api, FAULTY)
    told = [f"{fault.location}: {fault.message}" for fault in refused.value.faults]
    expected = [
        "line 2: colour: is not known",
        "line 4: settings, nodeId: is required",
        "line 5: settings, publishToSolarIn: expected true or false",
        'line 14: capacityProvider "B", registrationStatus: is not known',
        'line 20: capacityGroup "g", capacityProviderMeasurementPeriod: expected one of Minute,',
        'line 22: capacityGroup "g", control.marginPercent: expected a number from 0 to 50',
        'line 23: capacityGroup "g", control.meter.sourceId: is required',
        'line 23: capacityGroup "g", control.meter.property: is required',
        'line 25: capacityGroup "g", control.meter.sourceld: is not known',
        'line 27: capacityGroup "g": is there already: line 16: capacityGroup "g"',
        'line 29: capacityGroup "g", name: expected a text',
        'line 27: capacityGroup "g", capacityProvider: is required',
        'line 32: asset "[\'g\', 1]" "", capacityGroup: expected a name',
        'line 33: asset "[\'g\', 1]" "", control.device: expected the name of a configured device: '
        "battery-1, battery-2",
        'line 11: capacityProvider "B", baseUrl: is there already: line 7: capacityProvider "A"',
    ]
    for line in expected:
        assert [one for one in told if one.startswith(line)], (line, told)
    assert await api.rows("select 1 from peer") == []
    for text in ("format = ", "format = 2", "format = 1\nasset = 1", "format = 1\nasset = [1]", ""):
        with pytest.raises(FpdError):
            await bring(api, text)


async def test_names_that_are_nobody_s(api: Management) -> None:
    await make_site(await api.user())
    text = """format = 1
[[capacityGroup]]
identifier = "new"
name = "New"
capacityProvider = ['Lines "&" Co.', 2]
capacityOptimizer = "Nobody"
capacityOptimizerMeasurementPeriod = "Hour"
capacityProviderMeasurementPeriod = "Hour"
"""
    with pytest.raises(Invalid) as refused:
        await bring(api, text)
    ((place, message),) = [(f.location, f.message) for f in refused.value.faults]
    assert place == 'line 2: capacityGroup "new"'
    assert message == 'there is no capacityOptimizer "Nobody" for it to refer to'
    text = text.replace('capacityOptimizer = "Nobody"\n', "")
    with pytest.raises(FpdError):
        await bring(api, text, prune=True)
    assert counts(await bring(api, text)) == {"create": 1}, "what is there may be named"


async def test_pruning_leaves_what_the_file_names(api: Management) -> None:
    user = await api.user()
    await make_site(user)
    rest = """format = 1
[[capacityProvider]]
name = "Newcomer"
baseUrl = "https://a.example.org/cp"
[[capacityGroup]]
identifier = "my-group"
name = "My Group"
capacityProvider = "Newcomer"
capacityProviderMeasurementPeriod = "Hour"
[[asset]]
capacityGroup = "my-group"
identifier = "a"
name = "Charger 1"
audience = "CapacityProvider"
nodeId = 123
sourceId = "charger/1"
category = "Charging"
phase = "All"
"""
    with pytest.raises(Invalid) as refused:
        await bring(api, rest)
    assert 'is taken by capacityProvider "Lines' in str(refused.value.faults[0].message)
    planned = await bring(api, rest, prune=True, dry=True)
    assert counts(planned) == {"create": 1, "update": 2, "delete": 7}
    assert counts(await bring(api, rest, prune=True)) == counts(planned)
    assert counts(await bring(api, rest, prune=True)) == {"unchanged": 3}
    assert [p["name"] for p in (await user("GET", "capacity-providers")).data] == ["Newcomer"]
    assert [a["identifier"] for a in (await user("GET", "assets")).data] == ["a"]
    assert "data" not in (await user("GET", "settings")).body


async def test_peers_may_take_each_other_s_address(api: Management) -> None:
    for name in ("A", "B"):
        body = {"name": name, "baseUrl": f"https://{name}.example.org"}
        await (await api.user())("POST", "capacity-providers", body)
    text = await export(api)
    swapped = text.replace("//a.", "//x.").replace("//b.", "//a.").replace("//x.", "//b.")
    assert counts(await bring(api, swapped)) == {"update": 2}
    found = await api.rows("select id, name, base_url from peer order by id")
    assert found == [(1, "A", "https://b.example.org"), (2, "B", "https://a.example.org")]


async def test_the_first_of_two_equals_goes_and_the_other_stays_itself(api: Management) -> None:
    for url in ("https://one.example.org", "https://two.example.org"):
        await (await api.user())("POST", "capacity-providers", {"name": "Lines", "baseUrl": url})
    text = """format = 1
[[capacityProvider]]
name = "Lines"
baseUrl = "https://two.example.org"
oscpVersion = "2.0"
"""
    assert counts(await bring(api, text, prune=True)) == {"unchanged": 1, "delete": 1}
    assert await api.rows("select id from peer") == [(2,)]


async def test_what_fails_late_leaves_nothing_behind(api: Management) -> None:
    taken = {"name": "Theirs", "serviceProps": {"jwt-subject": "iss/sub"}}
    await (await api.user(2))("POST", "capacity-providers", taken)
    text = """format = 1
[[capacityProvider]]
name = "First"
[[capacityProvider]]
name = "Second"
serviceProps = {jwt-subject = "iss/sub"}
"""
    with pytest.raises(FpdError) as refused:
        await bring(api, text)
    (fault,) = refused.value.faults
    assert fault.location == 'line 4: capacityProvider "Second", serviceProps'
    assert await api.rows("select name from peer") == [("Theirs",)]


async def test_two_imports_at_once_do_not_mix(api: Management) -> None:
    await make_site(await api.user())
    text = await export(api)
    other = text.replace('name = "Charger 1"', 'name = "Charger 2"')
    await asyncio.gather(*(bring(api, one) for one in (text, other, text, other)))
    assert await export(api) in (text, other)


names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12
).filter(str.strip)
keys = st.text(string.ascii_letters + ' ."\\é', min_size=1, max_size=6)
plain = (
    st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | st.floats(-1e18, 1e18) | names
)
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3)
)


def one_of(*words: Any) -> Any:
    return st.sampled_from([str(word) for word in words])


def some(**fields: Any) -> Any:
    return st.fixed_dictionaries({}, optional=fields)


peers = st.fixed_dictionaries(
    {"name": st.sampled_from(["Lines", "Other"]) | names},
    optional={
        "enabled": st.booleans(),
        "oscpVersion": one_of("2.0", "1"),
        "baseUrl": st.integers(0, 10**9).map(lambda n: f"https://h{n}.example.org/{n}"),
        "serviceProps": st.dictionaries(keys, values, max_size=3)
        | st.just({"oauth-client-id": "c", "oauth-client-secret": "s"})
        | st.just(
            {"http-headers": {"X-Key": "k", "X-Plain": "v"}, "url-paths": {"Heartbeat": "/h"}}
        ),
    },
)
meters = st.fixed_dictionaries({"nodeId": st.integers(1, 99), "sourceId": names, "property": names})
controls = some(
    staticImportLimit=st.integers(0, 10**6),
    nominalVoltage=st.floats(1, 1000),
    gapPolicy=one_of("Static", "Unlimited"),
    meter=meters,
)
publishing = some(publishToSolarIn=st.booleans(), nodeId=st.integers(1, 2**63 - 1))
measured = st.fixed_dictionaries(
    {"propertyNames": st.lists(names, min_size=1, max_size=3), "unit": one_of("Wh", "kWh")},
    optional={"multiplier": st.floats(-1e6, 1e6), "type": one_of(*entities.EnergyType)},
)
assets = st.fixed_dictionaries(
    {
        "name": names,
        "audience": one_of(*entities.AUDIENCES),
        "nodeId": st.integers(1, 2**63 - 1),
        "sourceId": names,
        "category": one_of(*entities.AssetCategory),
        "phase": one_of(*entities.Phase),
    },
    optional={"energy": measured, "instantaneous": measured, "enabled": st.booleans()},
)


def _url(peer: dict[str, Any]) -> object:
    return peer.get("baseUrl") or id(peer)


sites = st.fixed_dictionaries(
    {
        "providers": st.lists(peers, min_size=1, max_size=4, unique_by=_url),
        "optimizers": st.lists(peers, max_size=2, unique_by=_url),
        "settings": st.none() | publishing.map(lambda s: {"nodeId": 1, **s}),
        "groups": st.dictionaries(
            names,
            st.tuples(
                names, st.integers(0, 3), st.none() | st.integers(0, 1), st.none() | controls,
                st.none() | publishing, st.dictionaries(names, assets, max_size=3),
            ),
            max_size=3,
        ),
    }
)  # fmt: skip
users = itertools.count(1000)


async def build(context: Any, user_id: int, site: dict[str, Any]) -> None:
    """Make a generated site through the same changes as the management API."""

    async def make(entity: Any, given: dict[str, Any]) -> int:
        row = await creating.create(context, entity, user_id=user_id, given=given)
        return int(row["id"])

    async with context.db.transaction() as conn:
        await accounts.ensure(conn, user_id=user_id, now=context.clock())
    providers = [await make(PROVIDER, peer) for peer in site["providers"]]
    optimizers = [await make(OPTIMIZER, peer) for peer in site["optimizers"]]
    if site["settings"] is not None:
        await changes.put_settings(
            context, USER_SETTINGS, user_id=user_id, id=user_id, given=site["settings"]
        )
    for identifier, (name, provider, optimizer, control, publish, its) in site["groups"].items():
        chosen = optimizers[optimizer % len(optimizers)] if optimizers and optimizer else None
        group = group_body(
            providers[provider % len(providers)],
            identifier=identifier,
            name=name,
            capacityOptimizerId=chosen,
            control=control,
        )
        group_id = await make(GROUP, group)
        if publish is not None:
            await changes.put_settings(
                context, GROUP_SETTINGS, user_id=user_id, id=group_id, given=publish
            )
        for asset_identifier, asset in its.items():
            await make(
                ASSET, {**asset, "identifier": asset_identifier, "capacityGroupId": group_id}
            )


async def test_any_site_comes_back_byte_for_byte(api: Management) -> None:
    vault: Vault = api.context.vault
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(site=sites, with_secrets=st.booleans())
    def comes_back(site: dict[str, Any], with_secrets: bool) -> None:
        asyncio.run_coroutine_threadsafe(round_trip(site, with_secrets), loop).result(60)

    async def round_trip(site: dict[str, Any], with_secrets: bool) -> None:
        one, other = next(users), next(users)
        await build(api.context, one, site)
        text = await export(api, user_id=one, with_secrets=with_secrets)
        assert counts(await bring(api, text, user_id=one)).keys() == {"unchanged"}
        done = await bring(api, text, user_id=other)
        assert counts(done).keys() == {"create"}
        assert await export(api, user_id=other, with_secrets=with_secrets) == text
        again = await bring(api, text, user_id=other, prune=True)
        assert counts(again).keys() == {"unchanged"}
        if with_secrets:
            mine, theirs = [await secrets(user_id) for user_id in (one, other)]
            assert mine == theirs

    async def secrets(user_id: int) -> list[Any]:
        rows = await api.rows(
            """
            select role, name, service_props, secrets_sealed from peer
             where user_id = %s order by role, name, id
            """,
            user_id,
        )
        return [
            (role, name, join_secrets(props, sealed, vault)) for role, name, props, sealed in rows
        ]

    await asyncio.to_thread(comes_back)
