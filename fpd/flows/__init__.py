"""What happens when…: claim, decide (domain), act, settle."""
