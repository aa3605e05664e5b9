"""The HTTP doors. A handler reads: parse, hand over, answer."""
