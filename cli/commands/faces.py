"""`ddim-edit faces`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command import Option, OptionGroup, command
from ..files import find_images, open_destination, plan_jobs
from ..options import FILE_OR_FOLDER, images_argument, json_option, overwrite_option, quiet_option, recursive_group
from ..session import Session


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    preview = Option(
        "-o",
        "--output",
        metavar="DIR|FILE",
        type=FILE_OR_FOLDER,
        help="Write previews with numbered faces: a folder, or for one image a file.",
    )
    run = OptionGroup("Run", [json_option(), quiet_option()], "session", Session)
    return [OptionGroup("Output", [images_argument(), preview, overwrite_option()]), recursive_group(), run]


@command(
    "Edit and create",
    3,
    option_groups,
    "ddim-edit faces group.jpg",
    "ddim-edit faces group.jpg -o group-faces.png",
)
def faces(images: Sequence[Path], output: Path | None, overwrite: bool, session: Session) -> None:
    """Find the faces in images, the largest first. Their numbers are those of `edit --face N`.

    Prints the box of each face, the angle by which it is tilted, and the score of the detector, from 0 to 1; with
    --json also its landmarks: pixels of the upright image. Needs the extra `faces`.
    """
    from ddim_edit.images import detect_faces, draw_faces, require_face_detector, write
    from ddim_edit.tables import plain_table

    require_face_detector()
    files = find_images(session, images)
    targets: dict[Path, Path] = {}
    if output is not None:
        destination = open_destination(session, output, ".png", overwrite, "-faces")
        targets = {job.source: job.target for job in plan_jobs(session, files, destination)}
    lines: list[list[str]] = []
    for file in files:
        if output is not None and file.path not in targets:
            continue
        with session.continue_on_error(file.path):
            found = detect_faces(file.path)
            if not found:
                session.note(f"{file.path.name}: no face was found")
            for number, face in enumerate(found, 1):
                if session.as_json:
                    row: dict[str, Any] = {"input": str(file.path), "face": number, **face.to_json()}
                    session.emit({**row, "degrees": round(face.degrees, 1)})
                left, top, width, height = face.box
                box = [f"{left:6.0f}", f"{top:6.0f}", f"{width:6.0f}", f"{height:6.0f}"]
                lines.append([file.name, f"{number:4d}", *box, f"{face.degrees:+7.1f}", f"{face.score:6.2f}"])
            if output is not None:
                write(targets[file.path], draw_faces(file.path, found))
                session.note(f"wrote {targets[file.path]}")
    if lines and not session.as_json:
        session.print_table(plain_table(["", "face", "left", "top", "width", "height", "degrees", "score"], lines))
    session.finish()
