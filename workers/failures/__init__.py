"""Failures: of which kind an exception is, in a trial's process (`classification`), in the driver, which gets it from
Ray (`from_ray`), and of the attempt itself (`attempt`)."""
