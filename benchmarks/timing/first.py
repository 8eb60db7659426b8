"""One inversion in a fresh process, split into what it spends its time on; prints one JSON object.

    python -m timing.first MODEL DEVICE DTYPE IMAGE OUTPUT STARTED

STARTED is what `time.monotonic` said when the process was started.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path


def main() -> None:
    """Invert, and print the times."""
    folder, device, dtype, image, output, started = sys.argv[1:]
    from ddim_edit import Editor, load_model
    from ddim_edit.diffusion.denoisers import NetworkDenoiser

    imported = time.monotonic()
    model = load_model(folder, device, dtype)
    loaded = time.monotonic()
    from timing.place import Place

    assert isinstance(model.denoiser, NetworkDenoiser)
    network = Place(device).watch(model.denoiser.network)
    editor = Editor(replace(model, denoiser=replace(model.denoiser, network=network)))
    editor.invert(image).save(Path(output))
    times = {"imports": imported - float(started), "loading": loaded - imported, "calls": network.seconds()}
    print(json.dumps(times))


if __name__ == "__main__":
    main()
