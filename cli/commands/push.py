"""`ddim-edit push`."""

from collections.abc import Sequence
from pathlib import Path

import click

from ..command import Option, OptionGroup, command
from ..options import FILE_OR_FOLDER, quiet_option
from ..session import Session


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    options = [
        click.Argument(["things"], nargs=-1, required=True, type=FILE_OR_FOLDER, metavar="FILES|FOLDER"),
        click.Argument(["repo"], metavar="OWNER/NAME"),
        Option("--license", required=True, metavar="ID", help="License for the card, as the hub spells it: mit."),
        Option("--description", default="", metavar="TEXT", help="Text for the card: of which data, for what."),
        Option("--private", is_flag=True, help="Make the repository private, if it does not exist yet."),
        quiet_option(),
    ]
    return [OptionGroup("Options", options)]


@command(
    "Tools",
    4,
    option_groups,
    "ddim-edit push smile.direction.safetensors owner/smile --license cc-by-4.0",
    "ddim-edit push a.latent.safetensors b.latent.safetensors owner/faces --license cc0-1.0 --private",
    "ddim-edit push my-model/ owner/my-model --license mit",
)
def push(things: Sequence[Path], repo: str, license: str, description: str, private: bool, quiet: bool) -> None:  # noqa: A002
    """Share directions, latents or a model on the Hugging Face hub, with a card that says what they are.

    They are written to the repository OWNER/NAME, which is made if it does not exist, and the address of its page is
    printed. --set and --model take its name. Log in with `hf auth login` before.
    """
    from ddim_edit import save_to_hub

    session = Session(quiet=quiet)
    with session.showing_progress():
        page = save_to_hub(things, repo, license=license, description=description, private=private or None)
    click.echo(page)
