"""`python -m mirasol`, the command where its script is not on the path."""

import sys

from mirasol.cli import main

sys.exit(main())
