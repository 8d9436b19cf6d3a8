"""WHO said it: keys, envelopes, trust. Bytes in, verdict out.

A leaf: imports no other room. It knows nothing of bundles, models or stores; what a payload means is the caller's
business.

keys         public and private keys of a named signer; the `.pub` text
keyring      the files under <home>/keys; pkcs8 and passphrase protect them at rest
envelope     DSSE: a payload, its type, its signatures; one canonical form
trust        who counts for which role; `TrustStore.verify` is the only way to a `VerifiedPayload`
verdict      why a payload was accepted or not, in sentences and as JSON
judge        the trust core: every check, in order
pure         Ed25519 and ML-DSA verification with nothing but the standard library
"""
