"""Memory: what there is, and what a run will take."""
