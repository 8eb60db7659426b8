"""A web service: the bytes of a photograph in, a PNG with one attribute edited out.

Run it with `pip install fastapi uvicorn` and `uvicorn --factory service:serve` in this folder, and try it with

    curl --data-binary @portrait.jpg "http://127.0.0.1:8000/edit?direction=old&strength=6" -o older.png
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from ddim_edit import ArgumentError, Direction, Editor, ImageError
from ddim_edit.directions import packaged_directions

WORKERS = 1
"""Photographs at once. One keeps a GPU, or all cores, busy; more only share them."""
MOST_WAITING = 16
"""Requests that may wait or run; whoever comes then is asked to come back."""
MOST_BYTES = 20 * 2**20
"""Of a photograph."""
POLL = 0.1
"""Seconds between two looks at whether the client is still there."""
CLIENT_CLOSED_REQUEST = 499


class DisconnectedError(Exception):
    """The client has gone."""


def make_app(editor: Editor, directions: Mapping[str, Direction], workers: int = WORKERS) -> FastAPI:
    """Return the service on one loaded model.

    Args:
        editor: on the model, which all requests share.
        directions: what clients may ask for, by name. They are loaded here: a name that came from a client and went to
            `Editor.edit` could be the path of any file.
        workers: threads that run the model.
    """
    pool = ThreadPoolExecutor(workers)
    waiting = threading.BoundedSemaphore(MOST_WAITING)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown()

    app = FastAPI(title="ddim-edit", lifespan=lifespan)

    async def run(request: Request, work: Callable[[Editor], bytes]) -> bytes:
        """Run work in a thread; it ends after the evaluation of the network in which the client goes away."""
        gone = threading.Event()

        def stop_if_gone(images: int) -> None:
            if gone.is_set():
                raise DisconnectedError

        own_editor = Editor(editor.model, on_evaluation=stop_if_gone)
        job = asyncio.get_running_loop().run_in_executor(pool, work, own_editor)
        try:
            while not job.done():
                await asyncio.wait([job], timeout=POLL)
                if await request.is_disconnected():
                    raise HTTPException(CLIENT_CLOSED_REQUEST)
            return job.result()
        finally:
            gone.set()
            job.cancel()  # if it still waits for a thread

    @app.get("/directions")
    def list_directions() -> list[str]:
        return list(directions)

    @app.post("/edit", response_class=Response)
    async def edit(request: Request, direction: str = "old", strength: float = 6.0) -> Response:
        if direction not in directions:
            raise HTTPException(404, f"There is no such direction. Choose one of {', '.join(directions)}.")
        if not waiting.acquire(blocking=False):
            raise HTTPException(503, "Too many photographs are waiting. Try again in a minute.")
        try:
            photo = await read_body(request)
            png = await run(request, lambda own_editor: edit_to_png(own_editor, photo, directions[direction], strength))
        finally:
            waiting.release()
        return Response(png, media_type="image/png")

    @app.exception_handler(ImageError)
    @app.exception_handler(ArgumentError)
    async def explain(request: Request, error: Exception) -> JSONResponse:
        """Answer with the sentence that the library has for what was sent."""
        return JSONResponse({"detail": str(error)}, status_code=400)

    return app


async def read_body(request: Request) -> bytes:
    """Return the body, of which no more than `MOST_BYTES` are read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"A photograph may have {MOST_BYTES >> 20} MiB at most. Send a smaller one.")
    return bytes(body)


def edit_to_png(editor: Editor, photo: bytes, direction: Direction, strength: float) -> bytes:
    """Return the whole photograph with its face edited, as a PNG file."""
    file = io.BytesIO()
    editor.edit_photograph(photo, {direction: strength}).to_pil().save(file, "PNG")
    return file.getvalue()


def serve() -> FastAPI:
    """Return the service on the packaged model."""
    editor = Editor.from_pretrained()
    names = packaged_directions(editor.model.name)
    return make_app(editor, {name: editor.direction(name) for name in names})
