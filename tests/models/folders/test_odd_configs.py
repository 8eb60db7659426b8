"""Whatever stands in a config, loading ends in a model or in one sentence."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddim_edit import DDIMEditError, load_model

from ... import pipelines

ONE_SENTENCE = r"^[^\n]+$"
ODD = st.sampled_from([None, -1, 0, 7, 3.5, True, "x", "linear", [], [1, 2], {}])
CONFIGS = ("config.json", "scheduler_config.json", "model_index.json")


@pytest.mark.parametrize("family", ["cifar10", "stable diffusion 1", "stable diffusion 3", "dit", "ldm vq"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_an_odd_entry_is_no_traceback(folders: Callable[[str], Path], family: str, data: st.DataObject) -> None:
    whole = folders(family)
    files = sorted(path.relative_to(whole) for name in CONFIGS for path in whole.rglob(name))
    file = data.draw(st.sampled_from(files))
    config = json.loads((whole / file).read_text())
    entry = data.draw(st.sampled_from(sorted(config)))
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(whole, Path(place) / "model")
        (folder / file).write_text(json.dumps(config | {entry: data.draw(ODD)}))
        told = outcome(folder)
        assert told == "loaded" or re.match(ONE_SENTENCE, told)


def outcome(folder: Path) -> str:
    try:
        load_model(folder, size=pipelines.SIZE)
    except DDIMEditError as error:
        return str(error)
    return "loaded"
