"""The site's configuration: nothing is downloaded, and every warning is meant to be an error (`make docs`)."""

import dataclasses
import re
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
    "myst_nb",
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

# The quick start is shown with the outputs that are committed; a test runs it.
nb_execution_mode = "off"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorial",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(figures|readme_figure|service)\.py",
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


COLON = "\ue000"
"""Stands for a colon while napoleon, which takes what is before one for a type, reads the docstring of a property."""


def for_the_page(app, what, name, thing, options, lines):
    """Keep what means something else in reStructuredText from doing so, except in examples."""
    in_example = False
    for number, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example and not line.startswith((".. ", ":")):
            lines[number] = reference_pages.escaped(line)
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def after_napoleon(app, what, name, thing, options, lines):
    """Put the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def with_defaults(app, what, name, thing, options, signature, returned):
    """Name the functions in the defaults of a dataclass: Sphinx cannot parse `<factory>` and `<function name>`."""
    if signature and dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if field.init and field.default_factory is not dataclasses.MISSING:
                made = getattr(field.default_factory, "__name__", "<lambda>")
                signature = signature.replace("<factory>", "..." if made == "<lambda>" else f"{made}()", 1)
        signature = re.sub(r"<function (\w+)>", r"\1", signature)
    return signature, returned


def of_our_own(app, what, name, thing, skip, options):
    """Leave out what scikit-learn gives each estimator; None leaves the choice to others."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    """Write the pages of the reference, and read docstrings as they are meant."""
    command_pages.write(HERE / "reference" / "commands")
    reference_pages.write(HERE / "reference" / "api")
    app.connect("autodoc-process-docstring", for_the_page, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", with_defaults)
    app.connect("autodoc-skip-member", of_our_own)
