"""What the operator configured: files in the configuration directory, and the nodes' addresses."""
