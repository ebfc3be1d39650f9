"""Recordings: real pages of Sophos Central, with whatever names a person, a machine or a place replaced."""
