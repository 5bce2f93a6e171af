"""Text from a model in this process: a run's result, a checkpoint, or the base of either."""
