"""Start programs (plugins, sendmail, hooks), and leave nothing of them behind."""
