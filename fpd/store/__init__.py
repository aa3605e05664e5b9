"""The only SQL. A store function is one statement, one row type, `now` given."""
