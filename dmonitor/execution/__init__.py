"""What starts programs (plugins, sendmail, hooks) and leaves nothing of them behind."""
