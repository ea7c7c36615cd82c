"""The open loop as a process without an end, which a Locust worker drives."""
