"""The command line, one file a verb.  Nothing is decided here."""
