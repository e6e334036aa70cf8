from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `installing`, whatever way pytest imports
pytest.register_assert_rewrite("beside_torch")
