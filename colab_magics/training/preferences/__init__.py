"""Learning from judged answers (dpo, kto, orpo): TRL's trainers inside this worker, with its events and checkpoints."""
