"""SoftHSM (Debian's softhsm2) in the place of a card: a token in a folder, with keys of three kinds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN, PIN = "office", "5678-geheim"
NEEDS = "needs Debian's softhsm2 and python-pkcs11"
AVAILABLE = bool(
    os.path.exists(MODULE) and shutil.which("softhsm2-util") and importlib.util.find_spec("pkcs11") is not None
)


def make_token(root: Path) -> None:
    """The token, with the keys card-p384, card-ed25519, and card-p256, which is of no use here. SOFTHSM2_CONF is set
    to `root`/softhsm2.conf by the caller, once in a process."""
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism

    (root / "tokens").mkdir()
    (root / "softhsm2.conf").write_text(f"directories.tokendir = {root / 'tokens'}\n")
    words = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "1234", "--pin", PIN]
    subprocess.run(words, check=True, capture_output=True)
    with pkcs11.lib(MODULE).get_token(token_label=TOKEN).open(rw=True, user_pin=PIN) as session:
        for label, kind, parameters in (
            ("card-p384", KeyType.EC, "06052b81040022"),
            ("card-p256", KeyType.EC, "06082a8648ce3d030107"),
            ("card-ed25519", KeyType.EC_EDWARDS, "06032b6570"),
        ):
            domain = session.create_domain_parameters(
                kind, {Attribute.EC_PARAMS: bytes.fromhex(parameters)}, local=True
            )
            how: dict[str, Any] = {}
            if kind == KeyType.EC_EDWARDS:
                how["mechanism"] = Mechanism.EC_EDWARDS_KEY_PAIR_GEN
            domain.generate_keypair(store=True, label=label, **how)
