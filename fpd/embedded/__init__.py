"""The default parts: a PostgreSQL server and an MQTT broker that need no installation."""
