"""``shoal doctor``: looks at a host in a role, and says what is wrong and what to do. It changes nothing there."""
