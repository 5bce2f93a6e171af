"""Any loop of one's own, tracked: the same folder, log and checkpoints as a run that a worker trains."""
