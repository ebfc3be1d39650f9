"""A preview of UTMStack's filters and rules on this site's events. It is not UTMStack's closed engine.

`files` reads UTMStack's YAML, `steps` compiles a filter's steps, and `conditions` compiles CEL. `session` applies both
to events, `reasons` explains why a rule never matches, and `report` shows the result. `docs/preview.md` names the
source of each fact.
"""
