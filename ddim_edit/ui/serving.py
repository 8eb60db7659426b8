"""Serves a page on this machine and to nobody else. Loads gradio, so the environment must be ready before it."""

import socket
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ddim_edit.errors import ArgumentError
from ddim_edit.ui.look import CSS, HEAD, theme

HOST = "127.0.0.1"
LARGEST = "100mb"
"""Of an upload."""


def serve_page(page: gr.Blocks, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page at 127.0.0.1 until interrupted; tells `ready` its address once it answers.

    Args:
        page: what to serve.
        port: where; 0 is any that is free.
        ready: told the address.

    Raises:
        ArgumentError: a port that is taken.
    """
    with _listening(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        config = uvicorn.Config(_app(page), log_level="warning", timeout_graceful_shutdown=1)
        _Server(config, lambda: ready(address)).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        given = f"port {port} ({error.strerror})"
        raise ArgumentError("a free port", given, "choose another one, or 0 for any") from error


def _app(page: gr.Blocks) -> FastAPI:
    """The page as an application that serves what it is told to, keeps no history and links nowhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=LARGEST,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    return app
