"""What shows and changes things for an operator.

Reports, tables, pages, metrics, keys, silences.
"""
