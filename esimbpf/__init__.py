"""Per-app traffic tracer for Linux devices on a cellular (eSIM) link."""

__version__ = "0.1.0"
