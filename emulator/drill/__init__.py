"""The outage drill: everything is cut off in turn, heals, and then every event is counted."""
