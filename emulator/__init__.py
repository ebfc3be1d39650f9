"""The cloud on one machine: serves the functions, ticks the clock, hands on storage events."""
