"""Data: from the files of a data set to its training, validation and test images."""
