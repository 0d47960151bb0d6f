"""The command line. Start-up imports click and nothing heavier; each command lives in a file of its own."""

from __future__ import annotations

import click

import edgessl
from edgessl.cli.group import RootGroup, examples, turn_on_debug

COMMANDS = {
    "pretrain": "edgessl.cli.pretrain:pretrain",
    "evaluate": "edgessl.cli.evaluate:evaluate",
    "export": "edgessl.cli.export:export",
    "inspect": "edgessl.cli.inspect:inspect",
    "keys": "edgessl.cli.sign:keys",
    "sign": "edgessl.cli.sign:sign",
    "verify": "edgessl.cli.sign:verify",
    "stream": "edgessl.cli.stream:stream",
    "federate": "edgessl.cli.federate:federate",
    "continual": "edgessl.cli.continual:continual",
    "neuro": "edgessl.cli.neuro:neuro",
    "bench": "edgessl.cli.bench:bench",
    "demo": "edgessl.cli.demo:demo",
    "doctor": "edgessl.cli.doctor:doctor",
}


@click.group(
    cls=RootGroup,
    lazy=COMMANDS,
    context_settings={"max_content_width": 100},
    epilog=examples(
        "edgessl doctor",
        "edgessl pretrain digits --out runs/digits/checkpoint.safetensors",
        "edgessl evaluate runs/digits/checkpoint.safetensors digits",
        "edgessl export runs/digits/checkpoint.safetensors --calibrate digits",
        "edgessl stream runs/digits/digits.edgessl digits:test --state runs/device",
        "edgessl COMMAND --help",
    ),
)
@click.version_option(edgessl.__version__, message="edgessl %(version)s")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=turn_on_debug,
    help="Show the traceback of an error (so does EDGESSL_DEBUG=1).",
)
def cli() -> None:
    """Self-supervised learning that continues on the device.

    Pretrain a compact encoder without labels, export it as a bundle that runs and learns with numpy and
    onnxruntime alone, let it go on learning from a stream, and share what a fleet learned without its data.

    Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a fault of edgessl's own,
    2 something to correct (the message says what), 130 interrupted.
    """


def main() -> None:
    """The `edgessl` program."""
    cli.main(prog_name="edgessl")
