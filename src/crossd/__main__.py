"""`python -m crossd`."""

import sys

from crossd.cli.main import main

sys.exit(main())
