"""Serve the page on this machine alone. Imports gradio, so its environment variables must be set before."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ddim_edit.errors import ArgumentError
from ddim_edit.ui.guard import LARGEST_UPLOAD, PageGuard
from ddim_edit.ui.page import CSS, HEAD, theme

HOST = "127.0.0.1"


def serve_page(page: gr.Blocks, port: int, folder: Path, on_ready: Callable[[str], object]) -> None:
    """Serve the page at 127.0.0.1 until interrupted.

    Args:
        page: what to serve.
        port: where; 0 is any that is free.
        folder: the only folder whose files the page reads and hands out.
        on_ready: called with the address once the page answers; it ends in the token of this run.

    Raises:
        ArgumentError: a port that is taken.
    """
    with listen(port) as listening:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        address = f"http://{HOST}:{port}/?token={token}"
        guarded = PageGuard(_make_app(page), port, token, folder)
        config = uvicorn.Config(
            guarded, log_level="warning", server_header=False, proxy_headers=False, timeout_graceful_shutdown=1
        )
        _Server(config, lambda: on_ready(address)).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that calls back when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine; ArgumentError for one that is taken."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ArgumentError(
            f"Cannot listen on port {port}: {error.strerror}. Choose another port, or 0 for any that is free."
        ) from error


def _make_app(page: gr.Blocks) -> FastAPI:
    """Return the page as an application without API documentation, history and links to other machines."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        show_error=True,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    return app
