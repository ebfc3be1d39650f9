"""What UTMStack's own filters and rules make of this site's events: a preview, not the closed engine.

`files` reads UTMStack's YAML, `steps` compiles a filter's steps, `conditions` compiles CEL, `session` runs events
through both, `reasons` says why a rule never fires, `report` shows it. `docs/preview.md` says where each fact is from.
"""
