"""Lets the tests of the planner import `tiny`, the worlds they share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
