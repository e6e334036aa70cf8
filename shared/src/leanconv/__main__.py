"""``python -m leanconv`` is ``leanconv``."""

import sys

from leanconv.cli import main

sys.exit(main())
