"""``python -m flexdetr``: the same as the command ``flexdetr``."""

import sys

from flexdetr.cli import main

sys.exit(main())
