"""`python -m edgessl`."""

from edgessl.cli import main

main()
