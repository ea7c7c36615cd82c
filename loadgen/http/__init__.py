"""HTTP load, closed and open loop: the hot loop, connections, replies, and the result."""
