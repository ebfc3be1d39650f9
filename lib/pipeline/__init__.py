"""The use cases, one a module, under their functions' names."""
