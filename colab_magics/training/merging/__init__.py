"""An adapter added into its base's weights, tensor by tensor, in a process of its own and little memory."""
