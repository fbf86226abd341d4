"""Honest programs with different habits, for `esimbpf demo`: each script of this folder is one, run by itself."""
