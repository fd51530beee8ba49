"""Sweeps on a Ray cluster that this machine is no part of: the driver runs there, as a Ray job."""
