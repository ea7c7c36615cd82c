"""What measures: schedules, closed and open loop clients, recorders."""
