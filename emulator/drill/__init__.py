"""The outage drill: each part is cut off in turn and restored; then every event is counted."""
