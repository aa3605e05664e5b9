"""The protocol on the wire: messages, headers, and the client that speaks to peers."""
