"""Files that ship with the package: models, weights and pictures, each with a card."""
