"""A swarm from the outside: Locust's processes, and the run folder of what they measured."""
