"""What talks on port 2929: the lines, their authentication, asking, answering, admission."""
