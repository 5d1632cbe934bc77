# SPDX-License-Identifier: MIT
"""The broker with clients that do what chance says; tests/model says what is right. More runs: `make model`."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from model.play import Knows, World  # noqa: E402

SEEDS = range(1, 31)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.threads), 3])
def test_random_clients_get_what_they_must_and_nothing_else(broker, workers):
    port = broker(workers=workers).port
    received = 0
    for seed in SEEDS:
        world = World(port, seed, knows=Knows(loose=workers > 1))
        errors = world.play()
        assert not errors, f"seed {seed}, {workers} workers: " + "\n".join(errors[:5])
        received += sum(len(s.receptions) for s in world.truth.sessions)
    assert received > 100 * len(SEEDS)
