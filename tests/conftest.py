"""Settings that every test shares: how long Hypothesis searches, and with which seed.

    make test                       the quick profile, a fresh seed each time
    make model                      the long profile
    make fuzz SEED=1234             the long profile, from one seed

The seed stands in the header of every run; `--hypothesis-seed` repeats it.
"""

import random

import pytest
from hypothesis import HealthCheck, settings

# Time limits are pytest-timeout's: a shared machine makes single examples slow, not wrong.
settings.register_profile(
    "quick",
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    parent=settings.get_profile("quick"),
    max_examples=1000,
    stateful_step_count=80,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed where none was given, before Hypothesis looks for it."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.randrange(1 << 32))


def pytest_report_header(config: pytest.Config) -> str:
    profile = config.getoption("--hypothesis-profile") or "quick"
    seed = config.option.hypothesis_seed
    return f"hypothesis: --hypothesis-profile={profile} --hypothesis-seed={seed}"
