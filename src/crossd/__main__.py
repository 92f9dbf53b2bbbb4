"""`python -m crossd`."""

import sys

from crossd.cli.command_line import main

sys.exit(main())
