"""What outlives a round: the database, the id of the node, the locks."""
