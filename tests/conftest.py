"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# Examples are bounded in number, not in time: a machine that also does something else is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
