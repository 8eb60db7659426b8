"""Parts of this package in the shape of other libraries, one package each; each needs the extra that installs it."""
