"""Every bound of this room, as data with its unit. A reader compares with these before it reads, decodes or counts."""

from __future__ import annotations

MAX_PAYLOAD_BYTES = 16 << 20  # a statement of a 400 GB bundle is under 1 MiB
MAX_SIGNATURES = 64  # hybrid: 32 signers
MAX_SIGNATURE_BYTES = 4627  # ML-DSA-87, FIPS 204 table 2
MAX_PAYLOAD_TYPE_CHARS = 128
# base64 of the payload, base64 of the signatures, and the JSON around them
MAX_ENVELOPE_BYTES = (MAX_PAYLOAD_BYTES + 2) // 3 * 4 + MAX_SIGNATURES * (MAX_SIGNATURE_BYTES * 4 // 3 + 128) + 512

MAX_NAME_CHARS = 64
MAX_PUBLIC_FILE_BYTES = 32 << 10  # four keys of at most 2592 bytes each need 14 KiB
MAX_PRIVATE_FILE_BYTES = 64 << 10
MAX_PASSPHRASE_BYTES = 4096

MAX_TRUST_FILE_BYTES = 4 << 20
MAX_CHAIN_BYTES = 16 << 20  # of signed trust documents, one version a line
MAX_CERTIFICATES = 3  # of one signer, the anchor included
MAX_CERTIFICATE_BYTES = 8 << 10
MAX_SIGNERS = 1000
MAX_THRESHOLD = 32
MAX_CHANNELS = 64  # globs per signer and role
MAX_CHANNEL_CHARS = 128
MAX_REASON_CHARS = 500
MAX_VERSION = 2**53 - 1  # the largest integer every TOML and JSON reader keeps exactly
