"""What a run looks like while it trains: a pure state folded from events, and two ways to draw it."""
