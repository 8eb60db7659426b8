"""What every test may count on: a number of threads, and no deadline that a busy machine could break."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Where oneDNN finds AMX, PyTorch packs bfloat16 for it, and then fails to compute as it is told to here; no processor
# has the one without the other. oneDNN reads this when it is first used.
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# The health check of slow data counts seconds too.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def threads() -> Iterator[None]:
    """As many as OMP_NUM_THREADS says; one unless it is set, since on tensors as small as a test's, more only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(threads)
