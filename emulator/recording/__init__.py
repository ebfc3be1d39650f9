"""Recordings: real pages of Sophos Central in which pseudonyms replace names of people, machines and places."""
