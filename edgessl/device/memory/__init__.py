"""The bounded replay memory: slots, codecs, policies (docs/memory.md)."""
