# SPDX-License-Identifier: MIT
"""The environment in which a program gets a library of tests/preload before all others."""

import os


def preloaded(build, name, **more):
    """The address sanitizer's own library then comes second, which it has to be told is right."""
    env = {"LD_PRELOAD": str(build / f"tests/preload/{name}.so"), **more}
    if "asan" in str(build):
        env["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "verify_asan_link_order=0"]))
    return env
