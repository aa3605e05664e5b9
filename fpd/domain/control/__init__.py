"""From what a group may do to what a device is told."""
