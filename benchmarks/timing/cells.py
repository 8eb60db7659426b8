"""What tables are made of."""

from collections.abc import Mapping

from timing.spread import Spread

Cell = str | int | float | Spread | None
Row = Mapping[str, Cell]
