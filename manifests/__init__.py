"""WHAT content is: digests, names, manifests, Modelfiles, GGUF, the local store, statements, scans, audits.

A leaf room: it imports none of ours, opens no connection and knows nothing of signatures.
"""
