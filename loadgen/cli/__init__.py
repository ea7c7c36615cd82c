"""The command `load`: options, output and exit statuses.  Measures nothing itself."""
