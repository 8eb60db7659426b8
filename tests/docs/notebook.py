"""Run the quick-start notebook: `python -m tests.docs.notebook` writes its outputs anew."""

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(notebook: Any, folder: Path, before: str = "") -> Any:
    """Run a notebook in a folder, and return it with its outputs.

    Args:
        notebook: what to run; it is changed.
        folder: where its kernel works.
        before: Python that runs first, in a cell that is taken off again.
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    client = NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": str(folder)}})
    client.execute()
    del notebook.cells[0]
    return notebook


def clean(notebook: Any) -> None:
    """Leave out what only a running kernel can show, which is bars, and texts that stand for images."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = [each for each in cell.outputs if each.output_type == "execute_result"]
            for output in cell.outputs:
                output.execution_count = number
                if "image/jpeg" in output.data:  # of Pillow images, which offer both
                    output.data.pop("image/png", None)
                if {"image/jpeg", "image/png"} & output.data.keys():
                    output.data["text/plain"] = "an image"


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    clean(notebook)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
