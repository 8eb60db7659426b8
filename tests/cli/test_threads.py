"""How threads wait for one another, which OpenMP reads from the environment when torch is imported."""

import os

import pytest

from .conftest import Run


@pytest.mark.parametrize(
    ("load", "asked", "policy"),
    [(4.0, None, None), (4.1, None, "PASSIVE"), (4.1, "ACTIVE", "ACTIVE")],
)
def test_threads_sleep_while_they_wait_on_a_busy_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch, load: float, asked: str | None, policy: str | None
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that whatever it becomes is undone
    if asked is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", asked)
    assert run("--version").status == 0
    assert os.environ.get("OMP_WAIT_POLICY") == policy
