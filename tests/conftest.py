"""What all tests share."""

import os

# Small networks gain nothing from more threads, and a busy machine makes threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
