"""What is asked for, and when: arrival schedules, mixes of requests, document roots."""
