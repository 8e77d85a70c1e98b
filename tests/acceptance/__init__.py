"""The acceptance table: every expected value, what the code gives here, and the test that holds it."""
