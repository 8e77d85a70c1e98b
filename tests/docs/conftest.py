"""The modules that make pages lie in docs/, where MkDocs looks for them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "docs"))
