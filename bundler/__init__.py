"""ACROSS THE GAP: registries, export, verification and import of bundles. Imports manifests and signing, nothing else
of ours.

layout, tar, oci      the format: which bytes lie where (docs/formats/bundle.md is normative)
cargo, draft, measure, writing, journal, export    out
medium, contents, intake, staging, verify, importer, receipt    in
policy, channels      what this side takes, and what it has seen
verify_sealift.py     the same checks in one file for a host with nothing but Python; never imported
registry              pull and push
"""
