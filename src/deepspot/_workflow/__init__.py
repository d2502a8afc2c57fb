"""From a file to a report in one call, for the command line."""
