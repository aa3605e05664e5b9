"""Managed entities: what they are made of, and each change of one, whoever asks for it.

`tables` says what entities are made of and `fields` what their properties may be; `creating` and
`changes` do the same with every kind, `peers` and `groups` add what only theirs needs. The
management API and the command line are two doors to it. `archive` writes all that a user has to one
file; `asked` reads it and `carry` makes it so.
"""
