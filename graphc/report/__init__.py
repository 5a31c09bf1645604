"""The report of a net: all that the compiler knows of it, as plain data and as one HTML file."""
