"""The tables of commands, one module for each kind of object."""
