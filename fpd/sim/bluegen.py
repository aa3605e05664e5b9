"""A simulated BlueGen web service with its fuel cells (seed 000, rev 1 of 2018-12-10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from fpd.sim.answers import Refusal, reply
from fpd.sim.bluegen_account import Account
from fpd.sim.bluegen_errors import STATUS, no
from fpd.sim.bluegen_profile_doors import ProfileDoors
from fpd.sim.bluegen_profiles import Limits, Profiles, RampCheck, Week
from fpd.sim.bluegen_requests import check_headers, json_body
from fpd.sim.bluegen_unit import Character, Orders, Sample, Unit
from fpd.sim.bluegen_unit_doors import UnitDoors
from fpd.sim.journal import Clock
from fpd.sim.quirks import Quirks
from fpd.sim.simulator import Handler, Options, Simulator, option
from fpd.sim.zones import zone

_HISTORY_SAMPLES = 288
_PHASE_STEP_S = 37.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueGenOptions(Options):
    username: str = option("demo", "account name")
    password: str = option("demo", "account password", secret=True)
    unit: tuple[int, ...] = option((249,), "unit id; may be repeated")
    minpower: float = option(800.0, "least power of a unit, W")
    maxpower: float = option(1500.0, "greatest power of a unit, W")
    slew_up: float = option(133.333, "how fast power may rise, W per minute")
    slew_dn: float = option(133.333, "how fast power may fall, W per minute")
    week_anchor: Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"] = option(
        "MON", "day that begins a profile's week"
    )
    week_tz: str = option("UTC", "the zone in which that day begins")
    profile_semantics: Literal["step", "step_lag", "linear"] = option(
        "step", "hold points, move to them during their tick, or draw lines"
    )
    activation_delay_s: float = option(900.0, "from storing a profile to running it")
    sample_period_s: float = option(300.0, "how often a unit reports")
    report_delay_s: float = option(30.0, "until a report can be read")
    timestamps_tz: str = option("UTC", "zone of the timestamps, which do not name it")
    unit_tz: str = option("Australia/Melbourne", "zone that the units and the account name")
    token_life_s: float = option(3600.0, "how long a login lasts")
    max_profiles: int = option(20, "how many profiles an account may have")
    speed: float = option(
        1.0, "delays and ramps run this many times faster; the week stays the real one"
    )


class NamedRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuse requests whose `METHOD /path` contains `path`, `times` times (None: for ever)."""

    name: str
    path: str = ""
    times: int | None = None

    def __post_init__(self) -> None:
        if self.name not in STATUS:
            raise ValueError(f"no error of the manual is called {self.name}")


class BlueGenQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    check_headers: Annotated[
        bool, Meta(description="demand Date, Content-Type and Content-MD5 as the manual says")
    ] = True
    quota_per_day: Annotated[
        int, Meta(ge=0, description="requests a UTC day, then 503; 0: no end")
    ] = 0
    eula: Annotated[bool, Meta(description="the customer agreed to the EULA")] = True
    status: Annotated[
        str | dict[str, str],
        Meta(description="state of all units, or {unit id: state}: Off, Heat-up, Power Export …"),
    ] = "Power Export"
    pp: Annotated[
        int | dict[str, int], Meta(description="power profile active: 1, 0 or {unit id: 0}")
    ] = 1
    limits: Annotated[
        dict[Literal["minpower", "maxpower", "slew_up", "slew_dn"], float],
        Meta(description="limits changed by the operator, e.g. {maxpower: 1300}"),
    ] = msgspec.field(default_factory=dict)
    revoked: Annotated[tuple[int, ...], Meta(description="units taken from the account")] = ()
    ramp_check: Annotated[
        RampCheck, Meta(description="off, plain, or circular (from tick 671 to 0 too)")
    ] = "circular"
    create_assigns: Annotated[
        bool, Meta(description="unit_id in a profile request also assigns the profile")
    ] = False
    delivery_lost: Annotated[
        bool, Meta(description="what is stored and assigned never reaches a unit")
    ] = False
    spoil: Annotated[
        dict[Literal["current", "acc"], dict[Literal["power", "gas"], Any]],
        Meta(description="values that cannot be true, e.g. {current: {power: NaN or -5 or 9e9}}"),
    ] = msgspec.field(default_factory=dict)
    date_skew_s: Annotated[float, Meta(description="the Date header is this far off, seconds")] = (
        0.0
    )
    clock_skew_s: Annotated[
        float, Meta(description="the same, and requests are refused whose Date is that far off")
    ] = 0.0
    refuse: Annotated[
        NamedRule | tuple[NamedRule, ...],
        Meta(description="an error of the manual by its name: {name, path, times}, one or a list"),
    ] = ()
    assign_ignored: Annotated[
        bool, Meta(description="assigning a profile is answered by 200 and changes nothing")
    ] = False
    naughty_ip: Annotated[bool, Meta(description="logins are refused from your address")] = False
    plain_refused: Annotated[
        bool, Meta(description="only an encrypted password is taken at login")
    ] = False
    pubkey_form: Annotated[
        Literal["pem", "der"], Meta(description="what the public key is in, before base64")
    ] = "pem"
    ok_text: Annotated[
        bool, Meta(description="writes are answered by the text 200 Ok, not by an empty body")
    ] = False
    frozen_data: Annotated[bool, Meta(description="no new reports reach the database")] = False
    numbers: Annotated[Literal["string", "number"], Meta(description="how numbers are written")] = (
        "string"
    )
    other_spelling: Annotated[
        bool, Meta(description="the manual's table spelling: when, lastlogin, LHV, id")
    ] = False
    error_form: Annotated[
        Literal["json", "text", "html"], Meta(description="form of error bodies")
    ] = "json"


class BlueGen(Simulator[BlueGenQuirks]):
    """The web service; profiles are stored at once and run by the units later."""

    role = "bluegen"

    def __init__(self, options: BlueGenOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=BlueGenQuirks)
        self.options = options
        self.account = Account(
            options.username,
            options.password,
            token_life_s=options.token_life_s,
            clock=clock,
        )
        self.profiles = Profiles(options.max_profiles)
        self.week = Week(
            anchor=options.week_anchor,
            zone=zone(options.week_tz),
            semantics=options.profile_semantics,
        )
        self.timestamps_zone = zone(options.timestamps_tz)
        period_s = options.sample_period_s / options.speed
        began_at = clock() - timedelta(seconds=_HISTORY_SAMPLES * period_s)
        self._units = {
            unit_id: Unit(unit_id, f"BG{unit_id:04}", self._character(number), started_at=began_at)
            for number, unit_id in enumerate(options.unit)
        }
        self._frozen_at: datetime | None = None
        self._refused: dict[NamedRule, int] = {}
        self._profile_doors = ProfileDoors(self)
        self._doors = (*UnitDoors(self).routes(), *self._profile_doors.routes())
        self.actions = {
            "expire_tokens": self._expire_tokens,
            "unlock": self._unlock,
            "rotate_pubkey": self._rotate_pubkey,
            "suspend": self._suspend,
            "assign_foreign": self._assign_foreign,
        }

    def told_time(self) -> datetime:
        skew_s = self.quirks.date_skew_s + self.quirks.clock_skew_s
        return self.clock() + timedelta(seconds=skew_s)

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return (
            web.get("/customer/pubkey", self.gated(self._pubkey, token=False)),
            web.post("/customer/login", self.gated(self._login, token=False)),
            *self._doors,
            web.route("*", "/{tail:.*}", self.gated(self._nothing)),
        )

    def state(self) -> dict[str, Any]:
        """Return what the units really do now; `watts` is their sum, as a meter would see it."""
        self.advance()
        units = {
            str(unit.id): {
                "watts": round(unit.output_w, 3),
                "wattHours": round(unit.energy_kwh * 1000, 3),
                "status": self.orders(unit).status,
                "pid": unit.profile_id,
                "running_points": [(point.tick, point.power_w) for point in unit.points],
            }
            for unit in self._units.values()
        }
        return {
            "role": self.role,
            "watts": round(sum(unit.output_w for unit in self._units.values()), 3),
            "units": units,
            "profiles": {profile.id: profile.name for profile in self.profiles},
            "requests_today": self.account.requests_today,
        }

    def advance(self) -> None:
        now = self.clock()
        if not self.quirks.frozen_data:
            self._frozen_at = None
        elif self._frozen_at is None:
            self._frozen_at = now
        for unit in self._units.values():
            unit.advance(now, self.orders(unit))

    def refused(self, refusal: Refusal) -> web.Response:
        form, name = self.quirks.error_form, refusal.message
        if form == "json":
            return reply({"error": name}, status=refusal.status)
        text = f"<html><body><h1>{name}</h1></body></html>" if form == "html" else name
        kind = "text/html" if form == "html" else "text/plain"
        return web.Response(status=refusal.status, text=text, content_type=kind)

    def gated(self, handler: Handler, *, token: bool = True) -> Handler:
        """Let through what has the headers, the quota and, if needed, the token."""

        async def gate(request: web.Request) -> web.StreamResponse:
            self.account.count_request(self.quirks.quota_per_day)
            self._refuse_by_name(f"{request.method} {request.path}")
            if self.quirks.check_headers:
                now = self.clock() + timedelta(seconds=self.quirks.clock_skew_s)
                check_headers(request, await request.read(), now)
            if token:
                self.account.verify(request.headers.get("Authorization", ""))
            self.advance()
            return await handler(request)

        return gate

    def switch(self, changes: Mapping[str, Any] | None) -> None:
        self._refused.clear()
        super().switch(changes)

    def _refuse_by_name(self, request_line: str) -> None:
        """Refuse as a quirk wants it, counting that as done."""
        rules = self.quirks.refuse
        for rule in (rules,) if isinstance(rules, NamedRule) else rules:
            done = self._refused.get(rule, 0)
            if rule.path in request_line and (rule.times is None or done < rule.times):
                self._refused[rule] = done + 1
                raise no(rule.name)

    def units(self) -> list[Unit]:
        """Return the units that the customer has now."""
        return [unit for unit in self._units.values() if unit.id not in self.quirks.revoked]

    def unit(self, text: str) -> Unit:
        if not text.isdigit():
            raise no("Malformed unit id")
        unit = self._units.get(int(text))
        if unit is None or unit.id in self.quirks.revoked:
            raise no("UnitInvalid")
        return unit

    def orders(self, unit: Unit) -> Orders:
        status, pp = self.quirks.status, self.quirks.pp
        return Orders(
            status=status if isinstance(status, str) else status.get(str(unit.id), "Power Export"),
            profiling=bool(pp if isinstance(pp, int) else pp.get(str(unit.id), 1)),
            limits=self.limits(),
        )

    def limits(self) -> Limits:
        given = {
            name: self.quirks.limits.get(name, getattr(self.options, name))
            for name in ("minpower", "maxpower", "slew_up", "slew_dn")
        }
        return Limits(
            min_w=given["minpower"],
            max_w=given["maxpower"],
            slew_up_w=given["slew_up"],
            slew_dn_w=given["slew_dn"],
        )

    def reported(self, unit: Unit) -> list[Sample]:
        """Return the samples that have reached the database, oldest first."""
        seen_at = self._database_time()
        return [sample for sample in unit.samples if sample.at <= seen_at]

    def accumulated(self, unit: Unit) -> Sample:
        """Return the newest sample whose counters have reached the database."""
        seen_at = self._database_time()
        return next(s for s in reversed(unit.samples) if s.accumulated_at <= seen_at)

    def number(self, value: float | int, form: str = "d") -> str | float | int:
        """Write a number as the service does: nearly always as a string."""
        text = format(value, form)
        if self.quirks.numbers == "string":
            return text
        return int(text) if form == "d" else float(text)

    def timestamp(self, instant: datetime) -> str:
        return instant.astimezone(self.timestamps_zone).strftime("%Y-%m-%d %H:%M:%S")

    def instant(self, text: str) -> datetime:
        """Read a timestamp (or a bare date) as the service writes them."""
        try:
            return datetime.fromisoformat(text).replace(tzinfo=self.timestamps_zone)
        except ValueError as error:
            raise no("Malformed request timestamp") from error

    def _database_time(self) -> datetime:
        delay = timedelta(seconds=self.options.report_delay_s / self.options.speed)
        return (self._frozen_at or self.clock()) - delay

    def _character(self, number: int) -> Character:
        options = self.options
        return Character(
            week=self.week,
            activation_delay_s=options.activation_delay_s,
            sample_period_s=options.sample_period_s,
            sample_phase_s=number * _PHASE_STEP_S / options.speed,
            speed=options.speed,
        )

    async def _login(self, request: web.Request) -> web.Response:
        given = await json_body(request)
        if self.quirks.naughty_ip:
            raise no("Naughty IP")
        token = self.account.login(
            given.get("username"),
            given.get("password"),
            plain_allowed=not self.quirks.plain_refused,
        )
        last = "lastlogin" if self.quirks.other_spelling else "last_login"
        return reply(
            {
                "jwt": token,
                "eula": "1" if self.quirks.eula else "0",
                last: self.clock().strftime("%Y-%m-%d"),
                "timezone": self.options.unit_tz,
                "dateformat": "d-m-Y",
                "language": "en",
            }
        )

    async def _pubkey(self, request: web.Request) -> web.Response:
        key = self.account.public_key(self.quirks.pubkey_form)
        issued_on = self.account.issued_on
        return reply({"pubkey": key, "issuedon": self.timestamp(issued_on) if issued_on else ""})

    async def _nothing(self, request: web.Request) -> web.Response:
        raise no("InvalidURI", invalid=f"no such call: {request.method} {request.path}")

    async def _expire_tokens(self, command: dict[str, Any]) -> dict[str, Any]:
        self.account.expire_tokens()
        return {}

    async def _unlock(self, command: dict[str, Any]) -> dict[str, Any]:
        self.account.unlock()
        return {}

    async def _rotate_pubkey(self, command: dict[str, Any]) -> dict[str, Any]:
        self.account.rotate_key()
        return {}

    async def _suspend(self, command: dict[str, Any]) -> dict[str, Any]:
        self.account.suspend()
        self.account.expire_tokens()
        return {}

    async def _assign_foreign(self, command: dict[str, Any]) -> dict[str, Any]:
        """Somebody else makes a flat profile and assigns it: {"unit": id, "power": W}."""
        unit = self.unit(str(command.get("unit", next(iter(self._units)))))
        return {"pid": self._profile_doors.assign_foreign(unit, float(command.get("power", 1450)))}
