"""What all tests share: one thread each, so that two workers do not fight over two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
