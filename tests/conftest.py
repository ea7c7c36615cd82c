"""Property tests draw the same examples on every run of CI, new ones on every other.

A commit must not fail for an example that has nothing to do with it; new examples are for the
developer who can look at what they find.
"""

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
if os.environ.get("SEDABENCH_TESTS") == "repeatable":
    settings.load_profile("repeatable")
