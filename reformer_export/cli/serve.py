"""`reformer-export serve`: artifacts over HTTP, until a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reformer_export.cli.option_names import Command
from reformer_export.cli.runtime_options import RUNTIME_SECTIONS, runtime_options
from reformer_export.cli.tables import echo_on_stderr
from reformer_export.errors import EXIT_CHECK_FAILED
from reformer_export.runtimes import RuntimeOptions
from reformer_export.serving import ServeOptions, serve
from reformer_export.serving.options import LOOPBACK

if TYPE_CHECKING:
    from reformer_export.serving.app import Server

SECTIONS = {
    "Address": ("host", "port", "allow_hosts", "api_key_file"),
    "Batches": ("max_batch", "max_batch_tokens", "max_delay", "concurrency"),
    "Generation": ("max_streams", "max_new_tokens", "max_cache"),
    "Limits": (
        "max_queue",
        "timeout",
        "max_body",
        "max_response",
        "max_connections",
        "client_timeout",
        "keep_alive",
        "drain",
    ),
    "Log": ("log_inputs",),
    **RUNTIME_SECTIONS,
}
_DEFAULT = ServeOptions


_Decorator = Callable[[Callable[..., object]], Callable[..., object]]


def _number(name: str, kind: Any, help_text: str, flag: str | None = None) -> _Decorator:
    """An option whose default is the library's; its flag is the field's name unless another is given."""
    default = getattr(_DEFAULT, name)
    return click.option(
        flag or f"--{name.replace('_', '-')}",
        name,
        type=kind,
        default=default,
        show_default=default is not None,
        help=help_text,
    )


@click.command("serve", cls=Command, sections=SECTIONS)
@click.argument("out", nargs=-1, required=True, type=click.Path())
@_number("host", str, "The address to listen on.")
@_number("port", int, "The port; 0 for a free one.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which clients may call the server; repeatable.  [default: localhost, or any elsewhere]",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys, one a line, of which each request has to name one (Authorization: Bearer KEY).",
)
@_number("max_batch", int, "Rows of a batch at most; 1 runs every request alone.")
@_number("max_batch_tokens", int, "Tokens of a batch at most.  [default: 256 on the CPU, 16384 on a GPU]")
@_number("max_delay", float, "Milliseconds that a request waits for company while a run could begin.")
@_number("concurrency", int, "Runs of a model at once.  [default: cores / --threads; 1 on a GPU]")
@_number("max_streams", int, "Texts of a model that are generated at once.")
@_number("max_new_tokens", int, "Tokens of one generated text at most.", "--max-tokens")
@_number("max_cache", int, "Bytes of caches of a model's texts at most; others wait.")
@_number("max_queue", int, "Requests of a model that wait at most; others are refused.")
@_number("timeout", float, "Seconds for an answer; others get 504.")
@_number("max_body", int, "Bytes of a request at most; others get 413.")
@_number("max_response", int, "Bytes of an answer's tensors at most; others get 413.")
@_number("max_connections", int, "Connections at once; others get 503.")
@_number("client_timeout", float, "Seconds for a client to send a request, or to take an answer.")
@_number("keep_alive", float, "Seconds that a connection may rest between requests.")
@_number("drain", float, "Seconds, after SIGTERM, for requests that were accepted.")
@click.option("--log-inputs", is_flag=True, help="Write what users send into the log.")
@runtime_options
def command(out: tuple[str, ...], choice: RuntimeOptions, **fields: Any) -> None:
    """Serve the artifacts in the folders OUT over HTTP, until SIGTERM or Ctrl-C.

    Each is asked by its folder's name, or by NAME where it is given as NAME=OUT. The log, a JSON object a
    line, goes to standard output. docs/serving.md has the routes, their statuses and examples.

    Exit status: 0 stopped, and all accepted requests were answered; 1 some were cut off after --drain
    seconds; 2 an artifact, an option or the address cannot be used.

    \b
    Examples:
      reformer-export serve OUT
      reformer-export serve bible=OUT small=OTHER --port 9000 --api-key-file keys.txt
    """
    if serve(on_ready=_show, artifacts=out, runtime=choice, **fields) > 0:
        click.get_current_context().exit(EXIT_CHECK_FAILED)


def _show(url: str, server: Server) -> None:
    for name, model in server.models.items():
        facts = model.worker.facts
        if facts is not None:
            click.echo(f"{name} runs on {facts.description}, {facts.concurrency} at once.", err=True)
            for note in facts.notes:
                echo_on_stderr(f"Note: {note}")
    if server.options.host not in LOOPBACK and not server.keys:
        click.echo("Note: whoever reaches this address may ask; --api-key-file FILE asks for keys.", err=True)
    click.echo(f"Serving {', '.join(server.models)} on {url} (Ctrl-C ends it).", err=True)
