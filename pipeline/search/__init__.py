"""The sweep: search spaces, Tune trials, cost accounting and resume."""
