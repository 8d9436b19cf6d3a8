"""`sealift key …`: make, list and show the keys of this machine, change a passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from signing.printing import hint, print_json, say, signer_dict

key_app = typer.Typer(no_args_is_help=True, help="Your own signing keys: who this machine can sign as.")

Name = Annotated[str, typer.Argument(help="The signer's name, such as alice or alice@example.org.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from a one-line file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.add_typer(key_app, name="key")


@key_app.command("generate")
def generate(
    name: Name,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Keep the private key unencrypted on this disk.")
    ] = False,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            "--scheme", help="hybrid (Ed25519 and ML-DSA-65), ed25519, ecdsa-p384, ml-dsa-65 or ml-dsa-87; repeatable."
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="hybrid, or cnsa2 for ECDSA P-384 and ML-DSA-87; --scheme goes before it.")
    ] = "hybrid",
    force: Annotated[bool, typer.Option("--force", help="Replace a key of the same name. It is then gone.")] = False,
) -> None:
    """Make a new key pair: NAME.key stays here, NAME.pub is for those who shall trust you.

    The private key is encrypted with a passphrase, asked for on the terminal, or taken from --passphrase-file or
    SEALIFT_PASSPHRASE.
    """
    from signing import keys
    from signing.keyring import Keyring, keys_dir
    from signing.passphrase import find_passphrase
    from signing.schemes import HYBRID

    if no_passphrase and passphrase_file is not None:
        raise typer.BadParameter("give --no-passphrase or --passphrase-file, not both")
    given = scheme or _schemes_of(profile)
    schemes = [part for one in given for part in (HYBRID if one == "hybrid" else (one,))]
    signer = keys.generate(name, schemes)
    ring = Keyring(keys_dir())
    if not force:
        ring.refuse_existing(name)  # before asking for a passphrase
    passphrase = None
    if not no_passphrase:
        passphrase = find_passphrase(f"the new key {name}", file=passphrase_file, confirm=True)
    ring.write(signer, passphrase, force=force)
    typer.echo(ring.public_path(name))
    say(f"made {name}, {' and '.join(key.scheme for key in signer.public.keys)}")
    say(f"fingerprint {signer.public.fingerprint}")
    role = "receiver" if name == "receipt" else "publisher (or approver, receiver, root)"
    hint(f"on the other side: sealift trust add {name}.pub --role {role}")


@key_app.command("add-token")
def add_token(
    name: Name,
    module: Annotated[Path, typer.Option("--module", help="The token's PKCS#11 library, such as opensc-pkcs11.so.")],
    token: Annotated[str, typer.Option("--token", metavar="LABEL", help="The token's label.")],
    label: Annotated[str, typer.Option("--label", help="The label of the key in it: Ed25519 or ECDSA P-384.")],
    profile: Annotated[
        str,
        typer.Option("--profile", help="Beside it in a file: ML-DSA-65 for hybrid, ML-DSA-87 for cnsa2, none for any."),
    ] = "hybrid",
    pin_file: Annotated[
        Path | None, typer.Option("--pin-file", metavar="FILE", help="Read the token's PIN from a one-line file.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Keep the ML-DSA key unencrypted on this disk.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a key of the same name. It is then gone.")] = False,
) -> None:
    """Sign with a key that lies in a PKCS#11 token, such as a smart card; it never leaves it.

    Few tokens know ML-DSA, so that half of a hybrid key is made here and kept in a file. The PIN is asked for on the
    terminal, or taken from --pin-file, SEALIFT_PIN_FILE or SEALIFT_PIN; when signing, from the latter two.
    """
    from signing import keys
    from signing.keyring import Keyring, keys_dir
    from signing.passphrase import find_passphrase
    from signing.schemes import scheme_named
    from signing.token import TokenKey, TokenPlace, find_pin, read_public

    ring = Keyring(keys_dir())
    if not force:
        ring.refuse_existing(name)
    post_quantum = [one for one in _schemes_of(profile) if scheme_named(one).post_quantum]
    made = keys.generate(name, post_quantum).private if post_quantum else ()
    pin = find_pin(token, file=pin_file)
    public = read_public(str(module), token, label, pin)
    place = TokenPlace(module=str(module), token=token, key=label, public=public)
    key = TokenKey(place=place, pin=pin)
    key.sign(b"sealift: is this the key?")  # before anything is written: it can sign, and it is that key
    signer = keys.Signer(name, (key, *made))
    passphrase = None
    if made and not no_passphrase:
        passphrase = find_passphrase(f"the new key {name}", file=passphrase_file, confirm=True)
    ring.write(signer, passphrase, force=force)
    typer.echo(ring.public_path(name))
    say(f"added {name}: {public.scheme} in the token {token}" + "".join(f", {one} in a file" for one in post_quantum))
    say(f"fingerprint {signer.public.fingerprint}")


def _schemes_of(profile: str) -> tuple[str, ...]:
    from signing.schemes import CNSA2, HYBRID

    known = {"hybrid": HYBRID, "cnsa2": CNSA2, "any": ()}
    if profile not in known:
        raise typer.BadParameter(f"unknown profile {profile!r}; known: {', '.join(known)}")
    return known[profile]


@key_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys of this machine, with their fingerprints."""
    from signing.keyring import Keyring, keys_dir

    ring = Keyring(keys_dir())
    found = [(ring.public(name), ring.is_encrypted(name)) for name in ring.names()]
    if as_json:
        print_json([signer_dict(public) | {"encrypted": encrypted} for public, encrypted in found])
        return
    for public, encrypted in found:
        schemes = "+".join(key.scheme for key in public.keys)
        typer.echo(f"{public.name}\t{schemes}\t{'encrypted' if encrypted else 'no passphrase'}\t{public.fingerprint}")
    if not found:
        say(f"no keys in {ring.directory}")
        hint("sealift key generate NAME")


@key_app.command("show")
def show(name: Name, as_json: AsJson = False) -> None:
    """Print the public key (the text of NAME.pub), for a file or a message."""
    from signing.keyring import Keyring, keys_dir

    public = Keyring(keys_dir()).public(name)
    if as_json:
        print_json(signer_dict(public))
        return
    typer.echo(public.encode().decode(), nl=False)
    say(f"fingerprint {public.fingerprint}")


@key_app.command("passwd")
def passwd(
    name: Name,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", metavar="FILE", help="The new passphrase, one line.")
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Store the private key unencrypted from now on.")
    ] = False,
) -> None:
    """Change the passphrase of a private key. The key itself stays the same.

    SEALIFT_PASSPHRASE and SEALIFT_NEW_PASSPHRASE serve where there is no terminal.
    """
    from signing.keyring import Keyring, keys_dir
    from signing.passphrase import find_passphrase

    if no_passphrase and new_passphrase_file is not None:
        raise typer.BadParameter("give --no-passphrase or --new-passphrase-file, not both")
    ring = Keyring(keys_dir())
    old = find_passphrase(f"the key {name}", file=passphrase_file) if ring.is_encrypted(name) else None
    ring.load(name, old)  # a wrong passphrase is said before a new one is asked for
    new = None
    if not no_passphrase:
        new = find_passphrase(
            f"the key {name} from now on", file=new_passphrase_file, confirm=True, variable="SEALIFT_NEW_PASSPHRASE"
        )
    ring.change_passphrase(name, old, new)
    say(f"changed the passphrase of {name}" if new else f"{name} is stored without a passphrase now")
