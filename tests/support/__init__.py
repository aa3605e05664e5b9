"""What several rooms' tests need. Import as `support.…`: pytest puts tests/ on the path."""
