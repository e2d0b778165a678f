"""The documentation: its code blocks run, its links lead somewhere, and its tables are those of the code."""
