"""`sealift bundle send | receive`: arguments and printing only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bundler.inputs import FOLDER, IDENTITY, JSON, TRUST, load_identity, load_policy, load_trust
from bundler.printing import bar, counted, print_json, say

if TYPE_CHECKING:
    from bundler.rooms import Rooms
    from bundler.seal import Keys


def register(bundle_app: typer.Typer) -> None:
    bundle_app.command("send")(send_)
    bundle_app.command("receive")(receive_)


def send_(
    folder: Path = FOLDER,
    to: Path | None = typer.Option(None, "--to", help="The drop folder of a diode or a guard.", show_default=False),
    max_part: str = typer.Option(
        "none", "--max-part", help="Cut files that are larger: 1G, 900MB, or a name as for --volume-size."
    ),
    pace: str = typer.Option(None, "--pace", help="Bytes for each second, such as 10M.", show_default=False),
    udp: str | None = typer.Option(
        None, "--udp", help="Through a network diode instead: HOST:PORT of its other side.", show_default=False
    ),
    rate: str = typer.Option("100M", "--rate", help="With --udp: bits for each second, such as 500M."),
    fec: str = typer.Option("10%", "--fec", help="With --udp: parity symbols; three times the loss that is expected."),
    mtu: int = typer.Option(1500, "--mtu", min=576, max=65_535, help="With --udp: largest IP packet, in bytes."),
    repeat: int = typer.Option(1, "--repeat", min=1, max=100, help="Send all of it so many times."),
    as_json: bool = JSON,
) -> None:
    """Send a bundle one way: file after file into a drop folder, or as datagrams through a network diode.

    In a drop folder files appear under their names when they are whole, the index volume first. A file that is there
    is never written over. The same command again after an interruption goes on where it stopped.

    \b
        sealift bundle send /media/usb --to /srv/diode/out --max-part 1GB
        sealift bundle send /media/usb --udp 192.0.2.7:5000 --rate 500M --repeat 3
    """
    from bundler.commands_custody import recorded
    from bundler.errors import BadRequest
    from bundler.pace import Pace
    from bundler.send import send
    from bundler.sizes import parse_size, show_size

    if udp is not None and to is None:
        _radiate(folder, udp, rate, fec, mtu, repeat, as_json)
        return
    if to is None or udp is not None:
        raise BadRequest("where to? Give --to FOLDER, or --udp HOST:PORT")
    limit, speed = parse_size(max_part), parse_size(pace) if pace else None
    with bar("sending") as progress:
        report = send(folder, to, max_part=limit, pace=Pace(speed), repeat=repeat, progress=counted(progress, folder))
    recorded("send", {"bundle": report.id, "files": len(report.sent), "to": to.name})
    if as_json:
        print_json(report.as_dict())
        return
    print(f"bundle {report.id}: {len(report.sent)} file(s) sent, {show_size(report.bytes)}")
    if report.kept:
        print(f"{len(report.kept)} file(s) lay there already and stay as they are")
    _say_missing(report.missing)


def _say_missing(names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        say(f"not sent, since they are not here: {', '.join(names[:4])}{more}")


def _radiate(folder: Path, udp: str, rate: str, fec: str, mtu: int, repeat: int, as_json: bool) -> None:
    from bundler import udp_link, udp_send
    from bundler.commands_custody import recorded
    from bundler.outgoing import Listed
    from bundler.sizes import show_size

    host, port = udp_link.parse_address(udp, "--udp")
    bits, m, symbol = udp_send.parse_rate(rate), udp_send.parity_symbols(fec), udp_send.symbol_size(mtu)
    with bar("hashing") as progress:
        bundle = udp_send.bundle_of(folder, counted(progress, folder))
    with bar("sending") as progress, udp_link.UdpLink(host, port) as link:
        report = udp_send.radiate(
            bundle, link, rate=bits, m=m, symbol=symbol, repeat=repeat, progress=counted(progress, folder)
        )
    what = "packing" if isinstance(bundle, Listed) else "bundle"
    recorded("send", {what: report.id, "datagrams": report.packets, "to": udp})
    if as_json:
        print_json(report.as_dict())
        return
    took = f"{report.seconds:.1f} s, {report.bytes * 8e-6 / max(report.seconds, 1e-9):.1f} Mbit/s"
    print(f"{what} {report.id}: {report.packets:,} datagrams, {show_size(report.bytes)} in {took}")
    say("whether they arrived is known on the other side only")
    _say_missing(report.missing)


def receive_(
    watch: Path | None = typer.Option(None, "--watch", help="The drop folder to look at.", show_default=False),
    udp: str | None = typer.Option(
        None, "--udp", help="Listen for datagrams of a network diode: ADDRESS:PORT of this host.", show_default=False
    ),
    once: bool = typer.Option(
        False, "--once", help="Deal with what lies there now; with --udp, with one transmission. Then leave."
    ),
    out: Path = typer.Option(
        None,
        "--out",
        "-o",
        help="Collect and verify there, one folder for each bundle; import nothing.",
        show_default=False,
    ),
    repair: bool = typer.Option(True, "--repair/--no-repair", help="Use parity volumes where something stays missing."),
    interval: float = typer.Option(2.0, "--interval", min=0.1, max=3600, help="Seconds between two looks."),
    limit: str | None = typer.Option(
        None,
        "--limit",
        help="With --udp: take encrypted bundles too, of at most so much together, such as 100GB.",
        show_default=False,
    ),
    identity: Path = IDENTITY,
    trust: Path = TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object for each event, for scripts."),
) -> None:
    """Receive bundles that arrive file by file or as datagrams, in any order, and import each when it is whole.

    It may take weeks. Files are checked as they come. Several bundles may arrive at once; other files are left alone,
    and the drop folder is never changed. Stop it at any time: the next run remembers.

    Encrypted volumes stay encrypted. Through a diode nobody can be judged before an encrypted volume is whole, so they
    are taken with --limit alone; without an identity they are collected with -o, and what is inside is not checked.

    Exit codes of --once: 0 all that was seen is in, 1 something was refused or damaged, 3 a bundle is not trusted,
    4 something is still missing, cannot be read, or is encrypted for others.
    """
    from bundler.errors import BadRequest
    from bundler.receive import watch as run
    from bundler.sizes import parse_size

    if (watch is None) == (udp is None):
        raise BadRequest("from where? Give --watch FOLDER, or --udp ADDRESS:PORT")
    if limit is not None and udp is None:
        raise BadRequest("--limit goes with --udp")
    most = parse_size(limit) if limit else None
    if limit and most is None:
        raise BadRequest(f"--limit {limit[:40]!r}: expected bytes, such as 100GB")
    with _rooms(out, trust, repair, as_json, load_identity(identity), most) as rooms:
        if udp is not None:
            _listen(udp, rooms, once)
        elif watch is not None:
            run(watch, rooms, once=once, interval=interval)
        code = rooms.exit_code()
    if code:
        raise typer.Exit(code)


def _listen(udp: str, rooms: Rooms, once: bool) -> None:
    from bundler import udp_link
    from bundler.udp_receive import Receiver

    socket, buffer = udp_link.open_socket(*udp_link.parse_address(udp, "--udp"))
    with socket, Receiver(rooms) as receiver:
        say(f"listening on {udp}, a buffer of {buffer:,} bytes")
        if buffer < udp_link.BUFFER:
            say(f"hint: for fast links let it be larger: sysctl -w net.core.rmem_max={udp_link.BUFFER}")
        udp_link.serve(socket, receiver, once=once)


def _rooms(
    out: Path | None, trust: Path | None, repair: bool, as_json: bool, keys: Keys | None, limit: int | None
) -> Rooms:
    from bundler.commands_receipts import open_keeper
    from bundler.rooms import Rooms
    from manifests.store import Store
    from signing.hosttrust import HostTrust

    store = Store() if out is None else None
    base = out if store is None else store.private / "receiving"
    assert base is not None
    tell = _print_json_line if as_json else _print_event
    host = HostTrust.here() if trust is None else None
    keeper = open_keeper(None, None, None, {}, unused=store is None)
    for note in keeper.notes:
        say(note)
    return Rooms(
        base, load_trust(trust), tell, policy=load_policy(), store=store, repair=repair, host=host, keeper=keeper,
        keys=keys, limit=limit,
    )  # fmt: skip


def _print_json_line(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _print_event(event: dict[str, Any]) -> None:
    """One line for a person; the slip, where there is one, as it has to be carried."""
    told = {key: value for key, value in event.items() if key not in ("event", "bundle", "slip") and value != ""}
    rest = [f"{key} {_words(value)}" for key, value in told.items()]
    line = " ".join([event["event"], event["bundle"], "; ".join(rest)])
    print("".join(c if c.isprintable() else "?" for c in line), flush=True)
    if event.get("slip"):
        print(event["slip"], end="", flush=True)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
