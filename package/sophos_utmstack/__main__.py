"""`python -m sophos_utmstack`: the same as the command `sophos-utmstack`."""

import sys

from . import main

sys.exit(main())
