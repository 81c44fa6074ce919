"""Tests keep catalogues, programs and plans: looking for garbage at every few hundred objects took a twentieth of their time."""

import gc

gc.set_threshold(100_000)
