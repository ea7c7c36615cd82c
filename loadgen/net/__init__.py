"""Where the load goes: addresses, what the kernel allows, and opening connections."""
