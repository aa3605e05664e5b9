"""MyEMS at a terminal: what a server has, and any of its endpoints."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.cli.frame import config_option, load
from fpd.errors import Malformed, Misconfigured

if TYPE_CHECKING:
    from fpd.adapters.myems_api import Myems
    from fpd.config_myems import MyemsPlatform

T = TypeVar("T")
_FILE = click.Path(path_type=Path, dir_okay=False)
_METHODS = ("GET", "POST", "PUT", "DELETE")


@click.group()
def myems() -> None:
    """MyEMS: look at a server, and ask or tell it anything.

    The server is a [[platform]] of the configuration, or named by --base-url.

    \b
    Examples:
      fpd myems discover --base-url http://10.0.0.5:8000 --username fpd --password-file pw
      fpd myems discover --platform site --json
      fpd myems call GET /meters/6/points
      fpd myems call PUT /commands/1/send '{"set_value": -25.5}'
    """


def _server(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--api-key-file", type=_FILE, help="An API key, where that is enough."),
        click.option("--password-file", type=_FILE, help="The administrator's password."),
        click.option("--username", help="An administrator."),
        click.option("--base-url", help="Its address, with /api where there is one."),
        click.option("--platform", "name", help="Its name in the configuration."),
        config_option,
    ):
        command = option(command)
    return command


@myems.command("discover")
@_server
@click.option("--node-id", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same, and all that there is, as JSON.")
def discover_(node_id: int, as_json: bool, **server: Any) -> None:
    """List meters, points, batteries, … and commands as a configuration to paste.

    Units and multipliers are filled in. Needs an administrator: an API key may not list points.

    \b
    Examples:
      fpd myems discover --base-url http://10.0.0.5:8000 --username fpd --password-file pw
      fpd myems discover --platform site --node-id 7 >> /etc/fpd/config.toml
    """
    from fpd.adapters import myems_discover as found

    platform, folder = _platform(**server)
    site = _ask(platform, folder, found.discover)
    form = found.document if as_json else found.toml
    said = form(site, name=platform.name, base_url=platform.base_url, node_id=node_id)
    if as_json:
        click.echo(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        click.echo(str(said).rstrip())


@myems.command("call")
@_server
@click.option("--key", is_flag=True, help="With the API key, not the administrator's session.")
@click.option("--file", "upload", type=_FILE, help="Upload a file, in place of JSON.")
@click.option("--bare", is_flag=True, help='Send the JSON as it is, without {"data": …}.')
@click.argument("method", type=click.Choice(_METHODS, case_sensitive=False))
@click.argument("path")
@click.argument("document", metavar="[JSON]", required=False)
def call(
    key: bool,
    upload: Path | None,
    bare: bool,
    method: str,
    path: str,
    document: str | None,
    **server: Any,
) -> None:
    """Call any endpoint: logged in, JSON wrapped as MyEMS wants it, refusals in words.

    Prints the JSON that comes back, or for an empty answer its status and Location. 200 with an
    empty body is how MyEMS says that it failed inside; after PUT it may be a success.

    \b
    Examples:
      fpd myems call GET '/reports/meterrealtime?meterid=6' --key
      fpd myems call POST /apikeys '{"name":"fpd","expires_datetime":"2030-01-01T00:00:00"}'
      fpd myems call POST /reports/offlinemeterinput \\
          '{"meter":1,"value":[["2026-11-19","24.0"]]}' --bare
      fpd myems call DELETE /energystoragecontainers/1/schedules/3
      fpd myems call POST /offlinemeterfiles --file 2026-11.xlsx
    """
    from fpd.adapters.myems_api import Access

    body, content_type = _body(document, bare=bare), "application/json"
    if upload is not None:
        body, content_type = _form(upload)
    if not path.startswith("/"):
        raise Malformed(f"{path}: a path begins with /")
    platform, folder = _platform(**server)
    access = Access.KEY if key else Access.ADMIN

    async def ask(server: Myems) -> Any:
        return await server.call(
            method.upper(), path, body, access=access, content_type=content_type
        )

    reply = _ask(platform, folder, ask)
    if reply.text.strip():
        click.echo(_printable(reply.text))
        return
    where = f" {reply.location}" if reply.location else ""
    click.echo(f"{reply.status}, empty body{where}", err=True)
    if reply.status == 200 and method.upper() in ("GET", "POST"):
        raise click.exceptions.Exit(1)


def _printable(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def _body(document: str | None, *, bare: bool) -> bytes:
    if document is None:
        return b""
    try:
        said = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    wrapped = bare or (isinstance(said, dict) and set(said) == {"data"})
    return json.dumps(said if wrapped else {"data": said}).encode()


def _form(upload: Path) -> tuple[bytes, str]:
    """Return a form with the file (RFC 7578), and its content type."""
    try:
        content = upload.read_bytes()
    except OSError as error:
        raise Malformed(f"{upload}: {error}") from error
    boundary = secrets.token_hex(16)
    name = re.sub(r"[^\w.-]", "_", upload.name, flags=re.ASCII)
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _platform(
    file: Path | None,
    name: str | None,
    base_url: str | None,
    username: str | None,
    password_file: Path | None,
    api_key_file: Path | None,
) -> tuple[MyemsPlatform, Path]:
    """Return the server that is meant, and where refused logins are remembered."""
    from fpd.config_myems import MyemsPlatform

    config = load(file)
    if base_url is not None:
        if not base_url.startswith(("http://", "https://")):
            raise Misconfigured(f"{base_url}: not an http:// or https:// address")
        given = MyemsPlatform(
            name=name or "myems",
            type="myems",
            base_url=base_url,
            username=username,
            password=_secret(password_file),
            api_key=_secret(api_key_file),
        )
        return given, config.data_dir
    found = [one for one in config.platforms if isinstance(one, MyemsPlatform)]
    known = [one for one in found if name in (None, one.name)]
    if len(known) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise Misconfigured(f"--platform or --base-url is needed (configured: {names})")
    return known[0], config.data_dir


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: {error}") from error


def _ask(platform: MyemsPlatform, folder: Path, ask: Callable[[Myems], Awaitable[T]]) -> T:
    """Ask the server and log out. Raises DeviceFault."""
    import asyncio

    from fpd.adapters import http
    from fpd.adapters.device import Wiring
    from fpd.adapters.myems_server import server
    from fpd.app import clock
    from fpd.config import Log
    from fpd.logs import configure

    configure(Log(level="warning"))

    async def asked() -> T:
        wiring = Wiring(
            session=http.session(), clock=clock, instance="command", interval_s=10, folder=folder
        )
        try:
            return await ask(server(platform, wiring))
        finally:
            await wiring.close()

    return asyncio.run(asked())
