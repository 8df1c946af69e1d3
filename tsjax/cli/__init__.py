"""The commands of the command line, one file each: a command's options, and the library functions that it calls."""
