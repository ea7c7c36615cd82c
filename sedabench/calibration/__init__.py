"""How far the load generator can be trusted on this machine: measured, kept, asked."""
