"""OCI bundles: what a ContainerSpec means in config.json (pure), and a Backend over any runtime that runs bundles."""
