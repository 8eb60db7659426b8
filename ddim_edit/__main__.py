"""`python -m ddim_edit`."""

from ddim_edit.cli import main

main()
