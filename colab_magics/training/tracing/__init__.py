"""What a training takes of memory, by running the model's real code on tensors that have a shape and no bytes."""
