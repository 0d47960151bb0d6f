"""Federations on real servers and networks: SuperLink, certificates, keys, proxy, and a trial on one machine."""
