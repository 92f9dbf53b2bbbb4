"""`python -m crossd`."""

import sys

from crossd.cli import main

sys.exit(main())
