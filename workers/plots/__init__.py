"""Plots: pictures of what a spec does: schedules, paths of optimizers, augmented images."""

import os

# They are drawn into files. The backend of the caller, such as that of a notebook, may not be installed here, and then
# matplotlib cannot be imported.
os.environ["MPLBACKEND"] = "agg"
