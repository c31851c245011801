"""`python -m mirasol.cli`."""

import sys

from mirasol.cli import main

sys.exit(main())
