"""Plots: pictures of what a spec does: schedules, paths of optimizers, augmented images."""
