"""MQTT: paho behind asyncio, the topics, and how datum are written there."""
