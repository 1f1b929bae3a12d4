"""How long tests wait: so many times as long as they say, on machines that are busy with something else."""

import os

PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
