"""The keeper: one process of the node that has containers' streams, logs and exits while the server is away."""
