"""The verb ``serve``."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode


def serve(
    file: Annotated[str, typer.Argument(metavar="ARTIFACT", help="An exported artifact, or a checkpoint.")],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where it listens; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8000,
    threshold: Annotated[
        float,
        typer.Option(metavar="T", min=0, max=1, help="Lowest score to keep, unless a request names one."),
    ] = 0.4,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="FLEXDETR_TOKEN",
            show_envvar=True,
            help="Answer only requests with this token.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name in addresses [default: the file's].")
    ] = None,
    max_bytes: Annotated[int, typer.Option(metavar="N", min=1, help="Of a request.")] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(metavar="N", min=1, help="Of a picture.")] = 50_000_000,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Of a request.")] = 30.0,
    in_flight: Annotated[
        int, typer.Option("--in-flight", metavar="N", min=1, help="Requests at a time; more are refused.")
    ] = 64,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures computed together.")] = 8,
    batch_wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="How long a picture waits for others to be computed with."
        ),
    ] = 0.005,
    _allowed: AllowCode = None,
) -> None:
    """Answer HTTP requests: POST a picture to /predict; a page to try it is at /."""
    import uvicorn

    from flexdetr.classifier import load_detector
    from flexdetr.serve.app import make_app
    from flexdetr.serve.limits import Limits

    limits = Limits(max_bytes, max_pixels, timeout, in_flight, batch_size, batch_wait)
    called = name or Path(file).absolute().stem
    if not called or any(not (letter.isalnum() or letter in "-_.") for letter in called):
        raise answers.UsageError(f"--name takes letters, digits, '-', '_' and '.'; got {called!r}")
    if token == "":
        raise answers.UsageError("--token (FLEXDETR_TOKEN) is empty; leave it out to ask for none")
    with _listen(host, port) as server_socket:
        if token is None and not _is_loopback(host):
            answers.note(f"{host} can be reached from other machines, and no --token is asked for")
        app = make_app(load_detector(file), name=called, threshold=threshold, token=token, limits=limits)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        answers.note(f"serving {called} on http://{host}:{server_socket.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[server_socket])


def _listen(host: str, port: int) -> socket.socket:
    """An open socket: a port that is taken is an ``OSError`` here, where uvicorn would end the process."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise answers.UsageError(f"--host {host} is not an address: {error.strerror}") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen()  # from here on who asks waits for an answer, and is not refused
    except OSError as error:
        opened.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    return opened


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
