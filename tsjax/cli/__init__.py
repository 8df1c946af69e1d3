"""The commands of the command line, one file each: what it is called with, and what it calls in the library."""
