"""The artefact that crosses every border: read, verified, signed, fetched (docs/bundle.md)."""
