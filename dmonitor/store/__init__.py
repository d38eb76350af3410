"""What outlives a round: the database, the node's id, the locks."""
