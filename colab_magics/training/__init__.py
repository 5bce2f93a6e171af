"""What runs inside the worker: the only room where torch and transformers are imported at the top."""
