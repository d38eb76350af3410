"""What shows and changes things for an operator: reports, tables, pages, metrics, keys, silences."""
