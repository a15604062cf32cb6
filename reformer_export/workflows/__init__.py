"""The jobs that users ask for, as functions: a command parses, calls one of these, and prints."""
