# SPDX-License-Identifier: MIT
"""What is acknowledged survives: kill -9, a disk that fails, a power failure. The machinery is in crash/."""

import os
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/system/crash"))
from run import Daemon, harass, until  # noqa: E402

FAULTS = "asan" in os.environ.get("TOCSIN_BUILD", "") or "tsan" in os.environ.get("TOCSIN_BUILD", "")


@pytest.mark.threads
@pytest.mark.parametrize("by_link", [False, True])
@pytest.mark.parametrize("places", [20, 200000])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path, by_link, places):
    account, acked = harass(tmp_path, 6, seed=1, by_link=by_link, faults=FAULTS, places=places)
    assert acked > 0
    account.check()
