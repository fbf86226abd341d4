"""Ticks become tables, JSON lines and summaries; each sink knows ticks and no other sink."""
