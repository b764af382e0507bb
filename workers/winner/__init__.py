"""Winner: what becomes of the best trial: its evaluation on the test set, and the model that users load."""
