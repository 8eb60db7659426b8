"""The site's configuration: nothing is downloaded, and every warning is meant to be an error (`make docs`)."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

import command_pages  # noqa: E402
import reference_pages  # noqa: E402

project = "ddim-edit"
author = "the ddim-edit authors"
project_copyright = author
release = version = metadata.version("ddim-edit")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst", "tutorial/*.ipynb", "tutorial/*.py", "sg_execution_times.rst"]
suppress_warnings = ["config.cache"]
# Two hyphens are an option, not a dash.
smartquotes = False

# Docstrings are written for a terminal: `name` is code, and |x| a length.
default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
python_display_short_literal_types = True

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorial",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(figures|readme_figure)\.py",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": (),
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "capture_repr": (),
    "show_signature": False,
    "write_computation_times": False,
    "reference_url": {},
    "abort_on_example_error": True,
}

html_theme = "furo"
html_title = "ddim-edit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0058a3", "color-brand-content": "#0058a3"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ff", "color-brand-content": "#7cc0ff"},
}


def for_the_page(app, what, name, thing, options, lines):
    """Keep what means something else in reStructuredText from doing so."""
    lines[:] = [line if line.startswith((".. ", ":")) else reference_pages.escaped(line) for line in lines]


def of_our_own(app, what, name, thing, skip, options):
    """Leave out what scikit-learn gives each estimator; None leaves the choice to others."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    """Write the pages of the reference, and read docstrings as they are meant."""
    command_pages.write(HERE / "reference" / "commands")
    reference_pages.write(HERE / "reference" / "api")
    app.connect("autodoc-process-docstring", for_the_page, priority=400)
    app.connect("autodoc-skip-member", of_our_own)
