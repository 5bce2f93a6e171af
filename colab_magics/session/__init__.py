"""The session: whose machine this is, how long it still lives, what fits into that, and what it costs."""
