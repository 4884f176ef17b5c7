"""What tuning changes beyond the tuned behaviour: what is run, and the tables of it."""
